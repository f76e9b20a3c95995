#!/usr/bin/env python3
"""NBD over TLS, with other people's programs on the other side: certificates, shared keys, and who may come in.

usage: nbdtls.py VIREO_NBD VIREO_IMG VIREO [unittest arguments]
"""
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import unittest

import nbd

from nbdcase import VIREO, VIREO_IMG, VIREO_NBD, TIMEOUT, Case, MiB, Monitored, can_connect, free_port, main, run, until

KEY_USES = "encryption_key\nsigning_key\n"


class TlsCase(Case):
    """Certificates: a server's, for "localhost", and those of two clients, in a folder for each."""

    @classmethod
    def setUpClass(cls):
        cls.pki = tempfile.mkdtemp(prefix="vireo-tls-")
        cls.addClassCleanup(shutil.rmtree, cls.pki)
        cls.make_certificate("ca", "cn=ca\nca\ncert_signing_key\n")
        cls.make_certificate("server", "cn=localhost\ndns_name=localhost\ntls_www_server\n" + KEY_USES)
        for name in ("client", "eve"):
            cls.make_certificate(name, 'country=DE\norganization="Vireo, Ltd"\ncn=%s\ntls_www_client\n' % name
                                 + KEY_USES)
        cls.eve = os.path.join(cls.pki, "of-eve")
        os.mkdir(cls.eve)
        for source, name in (("ca-cert", "ca-cert"), ("eve-cert", "client-cert"), ("eve-key", "client-key")):
            shutil.copy(os.path.join(cls.pki, source + ".pem"), os.path.join(cls.eve, name + ".pem"))
        with open(os.path.join(cls.pki, "keys.psk"), "w") as f:
            f.write("qemu:00112233445566778899aabbccddeeff\neve:99112233445566778899aabbccddeeff\n")

    @classmethod
    def make_certificate(cls, name, template):
        info, key, cert = (os.path.join(cls.pki, file) for file in ("info", name + "-key.pem", name + "-cert.pem"))
        with open(info, "w") as f:
            f.write(template)
        run("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", key)
        signer = ["--generate-self-signed"] if name == "ca" else \
            ["--generate-certificate", "--load-ca-certificate", os.path.join(cls.pki, "ca-cert.pem"),
             "--load-ca-privkey", os.path.join(cls.pki, "ca-key.pem")]
        run("certtool", *signer, "--load-privkey", key, "--template", info, "--outfile", cert)

    def x509(self, endpoint):
        return "tls-creds-x509,id=tls0,endpoint=%s,dir=%s" % (endpoint, self.pki)

    def secure(self, program, *options):
        port = free_port()
        self.server = self.daemon(program, "--object", *options, "--tls-creds", "tls0", "-b", "127.0.0.1", "-p", port, "-t",
                                  "-f", "raw", "-e", "4", self.image())
        uri = "nbds://localhost:%d" % port
        self.wait_for(port)
        return port, uri

    def log(self):
        """What the server wrote, which ends by that."""
        self.end(self.server)
        return self.server.communicate(timeout=TIMEOUT)[1].decode()

    def start_tls(self, port, who):
        """The beginning of a client's conversation -> a socket of TLS."""
        s = socket.create_connection(("localhost", port))
        self.addCleanup(s.close)
        s.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0")
        self.assertEqual(len(s.recv(38, socket.MSG_WAITALL)), 38)
        context = ssl.create_default_context(cafile=os.path.join(self.pki, "ca-cert.pem"))
        context.load_cert_chain(os.path.join(who, "client-cert.pem"), os.path.join(who, "client-key.pem"))
        return context.wrap_socket(s, server_hostname="localhost")

    def wait_for(self, port):
        def there():
            with socket.socket() as s:
                return s.connect_ex(("localhost", port)) == 0
        until(there, "listen on TCP")


class Tls(TlsCase):
    def test_certificates(self):
        port, uri = self.secure(VIREO_NBD, self.x509("server"))
        with_certs = uri + "/?tls-certificates=" + self.pki
        info = json.loads(run("nbdinfo", "--json", "--no-content", with_certs).stdout)
        self.assertTrue(info["TLS"])
        run("nbdcopy", with_certs, self.path("out"))
        self.assertEqual(self.read(self.path("out")), self.read(self.path("disk.raw")))
        plain = run("nbdinfo", "nbd://localhost:%d" % port, check=False)
        self.assertNotEqual(plain.returncode, 0)
        os.mkdir(self.path("stranger"))                     # one whom the CA has not signed for
        shutil.copy(os.path.join(self.pki, "ca-cert.pem"), self.path("stranger"))
        stranger = run("nbdinfo", uri + "/?tls-certificates=" + self.path("stranger"), check=False)
        self.assertNotEqual(stranger.returncode, 0)

    def test_keys(self):
        _, uri = self.secure(VIREO_NBD, "tls-creds-psk,id=tls0,endpoint=server,dir=" + self.pki)
        good = uri.replace("//", "//qemu@") + "/?tls-psk-file=" + os.path.join(self.pki, "keys.psk")
        self.assertTrue(json.loads(run("nbdinfo", "--json", "--no-content", good).stdout)["TLS"])
        bad = uri.replace("//", "//bob@") + "/?tls-psk-file=" + os.path.join(self.pki, "keys.psk")
        self.assertNotEqual(run("nbdinfo", bad, check=False).returncode, 0)

    def test_our_client(self):
        for program in ("qemu-nbd", VIREO_NBD):
            port, _ = self.secure(program, self.x509("server"))
            opts = "driver=nbd,server.type=inet,server.host=localhost,server.port=%d,tls-creds=tls0" % port
            run(VIREO_IMG, "convert", "--object", self.x509("client"), "--image-opts", "-O", "raw", opts,
                self.path("out"))
            self.assertEqual(self.read(self.path("out")), self.read(self.path("disk.raw")))
            wrong = run(VIREO_IMG, "info", "--object", self.x509("server"), "--image-opts", opts, check=False)
            self.assertIn("client endpoint", wrong.stderr.decode())
            naked = run(VIREO_IMG, "info", "nbd://localhost:%d" % port, check=False)
            self.assertEqual(naked.returncode, 1)

    def test_others_on_top_of_us(self):
        """nbdkit and qemu-nbd as clients of ours, and we as theirs, over TLS all the way."""
        port, uri = self.secure(VIREO_NBD, self.x509("server"))
        kit, emu = self.path("kit"), self.path("emu")
        self.daemon("nbdkit", "-f", "-U", kit, "nbd", "hostname=localhost", "port=%d" % port, "tls=require",
                    "tls-certificates=" + self.pki, ready=kit)
        self.daemon("qemu-nbd", "-k", emu, "-t", "--object", self.x509("client"), "--image-opts",
                    "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=localhost,"
                    "file.server.port=%d,file.tls-creds=tls0" % port, ready=emu)
        for path in (kit, emu):
            until(lambda path=path: can_connect(path), path)
            with self.client("nbd+unix:///?socket=" + path) as h:
                h.pwrite(b"by " + path.encode()[-3:], MiB)
                h.flush()
                self.assertEqual(bytes(h.pread(6, MiB)), b"by " + path.encode()[-3:])
            run("nbdcopy", "nbd+unix:///?socket=" + path, self.path("out"))
            self.assertTrue(self.read(self.path("out")) == self.read(self.path("disk.raw")))

    def test_we_on_top_of_nbdkit(self):
        """Certificates and keys; what is written arrives."""
        for creds, options in ((self.x509("client"), ["--tls-certificates=" + self.pki, "--tls-verify-peer"]),
                               ("tls-creds-psk,id=tls0,endpoint=client,username=qemu,dir=" + self.pki,
                                ["--tls-psk=" + os.path.join(self.pki, "keys.psk")])):
            port = free_port()
            self.daemon("nbdkit", "-f", "-i", "localhost", "-p", port, "--tls=require", *options, "memory", "4M")
            self.wait_for(port)
            opts = "driver=nbd,server.type=inet,server.host=localhost,server.port=%d,tls-creds=tls0" % port
            _, _, ours = self.serve(opts, "--object", creds, "--image-opts", "-e", "0")
            with self.client(ours) as h:
                h.pwrite(b"x" * MiB, MiB)
                self.assertEqual(bytes(h.pread(3, MiB - 1)), b"\0xx")


class Authorization(TlsCase):
    """tls-authz: a certificate that is good is not enough."""
    client_dn = "C=DE,O=Vireo\\, Ltd,CN=client"

    def authz(self, match, kind="exact"):
        return {"qom-type": "authz-list", "id": "who", "policy": "deny",
                "rules": [{"match": match, "policy": "allow", "format": kind}]}

    def info(self, uri, who=None):
        return run("nbdinfo", "--size", uri + "/?tls-certificates=" + (who or self.pki), check=False)

    def secure_for(self, program, authz, creds=None):
        return self.secure(program, creds or self.x509("server"), "--object", authz, "--tls-authz", "who")

    def check_only_the_client(self, uri):
        for _ in range(2):
            self.assertEqual(self.info(uri).stdout, b"4194304\n")
            refused = self.info(uri, self.eve)
            self.assertNotEqual(refused.returncode, 0)
        return refused.stderr.decode()

    def test_a_list_of_certificates(self):
        """The same objects let the same clients into qemu-nbd: what we call a client is what QEMU does."""
        for match, kind in ((self.client_dn, "exact"), ("*,CN=c?ient", "glob")):
            for program in ("qemu-nbd", VIREO_NBD):
                _, uri = self.secure_for(program, json.dumps(self.authz(match, kind)))
                words = self.check_only_the_client(uri)
        self.assertIn("alert", words)                       # it is told, and not just cut off
        log = self.log()
        self.assertEqual(log.count("NBD: a client (tcp:127.0.0.1:"), 2, log)
        self.assertEqual(log.count("turned away: 'who' refuses 'C=DE,O=Vireo\\, Ltd,CN=eve'"), 2, log)
        self.assertEqual(log.count("\n"), 2, log)

    def test_a_process_of_this_host(self):
        path = self.path("s")
        self.server = self.daemon(VIREO_NBD, "-k", path, "-t", "-f", "raw", "--object", self.x509("server"), "--object",
                                  "authz-list,id=who", "--tls-creds", "tls0", "--tls-authz", "who", self.image(),
                                  ready=path)
        self.assertNotEqual(run("nbdinfo", "nbds+unix:///?socket=%s&tls-certificates=%s" % (path, self.pki),
                                check=False).returncode, 0)
        self.assertRegex(self.log(), "a client \\(process [0-9]+ of user %d\\) is turned away" % os.getuid())

    def test_other_clients(self):
        _, uri = self.secure_for(VIREO_NBD, "authz-simple,id=who,identity=" + self.client_dn.replace(",", ",,"))
        opts = "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=localhost,file.server.port=%s," \
            "file.tls-creds=tls0" % uri.split(":")[-1]
        for program in ("qemu-img", VIREO_IMG):
            line = [program, "info", "--object", self.x509("client"), "--image-opts", opts]
            run(*line)
            line[3] = line[3].replace(self.pki, self.eve)
            refused = run(*line, check=False)
            self.assertEqual(refused.returncode, 1)

    def test_one_goes_on_while_another_is_refused(self):
        _, uri = self.secure_for(VIREO_NBD, "authz-list,id=who,rules.0.policy=allow,rules.0.format=glob,"
                                            "rules.0.match=*CN=client")
        h = nbd.NBD()
        h.set_tls_certificates(self.pki)
        h.set_uri_allow_local_file(True)
        h.connect_uri(uri + "/?tls-certificates=" + self.pki)
        for i in range(3):
            self.assertNotEqual(self.info(uri, self.eve).returncode, 0)
            h.pwrite(b"%d" % i, i)
        h.flush()
        self.assertEqual(bytes(h.pread(3, 0)), b"012")
        h.shutdown()

    def test_what_a_refused_client_is_told(self):
        """It hears by an alert of TLS's own why it goes."""
        _, uri = self.secure_for(VIREO_NBD, "authz-list,id=who")
        with self.start_tls(int(uri.split(":")[-1]), self.pki) as t:
            with self.assertRaises(ssl.SSLError) as caught:
                t.recv(1)
            self.assertIn("ACCESS_DENIED", str(caught.exception))

    def test_a_file_of_rules(self):
        rules = self.path("rules.json")

        def put(match):
            with open(rules + "~", "w") as f:
                json.dump({"rules": [{"match": match, "policy": "allow", "format": "glob"}]}, f)
            os.rename(rules + "~", rules)

        put("*CN=client")
        _, uri = self.secure_for(VIREO_NBD, "authz-list-file,id=who,filename=" + rules)
        self.check_only_the_client(uri)
        put("*CN=eve")                                      # the event comes before the next connection
        self.assertEqual(self.info(uri).returncode, 1)
        self.assertEqual(self.info(uri, self.eve).returncode, 0)
        with open(rules, "w") as f:
            f.write("{")
        self.assertEqual(self.info(uri, self.eve).returncode, 0)
        self.assertIn("stay in force", self.log())

    def test_names_of_keys(self):
        """QEMU asks nobody about shared keys; we do."""
        _, uri = self.secure_for(VIREO_NBD, "authz-simple,id=who,identity=qemu",
                                 "tls-creds-psk,id=tls0,endpoint=server,dir=" + self.pki)
        for user, ok in (("qemu", True), ("eve", False), ("qemu", True)):
            with_key = uri.replace("//", "//%s@" % user) + "/?tls-psk-file=" + os.path.join(self.pki, "keys.psk")
            self.assertEqual(run("nbdinfo", "--size", with_key, check=False).returncode == 0, ok, user)
        self.assertIn("'who' refuses 'eve'", self.log())

    @unittest.skipIf(not os.path.exists("/etc/pam.d/other") or os.getuid(), "PAM as Debian has it, and root")
    def test_accounts_of_this_host(self):
        """A key for root; none of the others whom the file has is an account."""
        folder = self.path("psk")
        os.mkdir(folder)
        with open(folder + "/keys.psk", "w") as f:
            f.write("root:00112233\nno-such-account:44556677\n")
        _, uri = self.secure_for(VIREO_NBD, "authz-pam,id=who,service=other",
                                 "tls-creds-psk,id=tls0,endpoint=server,dir=" + folder)
        for user, ok in (("root", True), ("no-such-account", False), ("root", True)):
            with_key = uri.replace("//", "//%s@" % user) + "/?tls-psk-file=" + folder + "/keys.psk"
            self.assertEqual(run("nbdinfo", "--size", with_key, check=False).returncode == 0, ok, user)
        self.assertIn("PAM's service 'other'", self.log())

    def test_wrong_lines(self):
        image, server = self.image(), ["--object", self.x509("server"), "--tls-creds", "tls0"]
        for line, words in ((["--tls-authz", "who"], "--tls-authz is not permitted without --tls-creds"),
                            ([*server, "--tls-authz", "who"], "No authorization object with id 'who'"),
                            ([*server, "--tls-authz", "tls0"], "'tls0' is not an authorization object"),
                            (["--object", self.x509("server") + ",verify-peer=off", "--tls-creds", "tls0", "--tls-authz",
                              "who", "--object", "authz-list,id=who"], "verify-peer=off of 'tls0'"),
                            (["--object", "authz-list,id=a,rules.0.match=x"], "--object: property 'rules' of "
                             "'authz-list': rules.0: 'policy' is missing"),
                            (["--object", "authz-list-file,id=a,filename=/none"], "cannot read '/none'")):
            done = run(VIREO_NBD, "-k", self.path("s"), "-f", "raw", *line, image, check=False)
            self.assertEqual(done.returncode, 1, line)
            self.assertIn(words, done.stderr.decode())
        done = run(VIREO_NBD, "-L", *server, "--tls-authz", "x", check=False)
        self.assertIn("TLS authorization is incompatible with export list", done.stderr.decode())


class Hostname(TlsCase):
    """The server's certificate, where the address does not say whom it must name."""

    def opts(self, port, more=""):
        return "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=%d,tls-creds=tls0%s" % (port, more)

    def unix_server(self, program, *options):
        path = self.path("tls.sock")
        if os.path.exists(path):
            os.remove(path)
        self.daemon(program, "-k", path, "-t", "-e", "0", "--object", self.x509("server"), "--tls-creds", "tls0",
                    "-f", "raw", *options, self.image(), ready=path)
        return "driver=nbd,server.type=unix,server.path=%s,tls-creds=tls0" % path

    def look(self, creds, opts, *objects):
        return run(VIREO_IMG, "info", "--object", creds, *objects, "--image-opts", opts, check=False)

    def check_refused(self, done, words):
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(words, done.stderr.decode())

    def strangers(self):
        """What a client of another CA's has."""
        folder = self.path("other-ca")
        os.mkdir(folder)
        run("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", folder + "/key")
        with open(folder + "/info", "w") as f:
            f.write("cn=localhost\nca\ncert_signing_key\n")
        run("certtool", "--generate-self-signed", "--load-privkey", folder + "/key", "--template", folder + "/info",
            "--outfile", folder + "/ca-cert.pem")
        return "tls-creds-x509,id=tls0,endpoint=client,dir=" + folder

    def test_list(self):
        for program in ("qemu-nbd", VIREO_NBD):
            port, _ = self.secure(program, self.x509("server"))
            line = [VIREO_NBD, "-L", "-b", "127.0.0.1", "-p", port, "--object", self.x509("client"), "--tls-creds", "tls0"]
            self.assertEqual(run(*line, check=False).returncode, 1)             # it does not name 127.0.0.1
            self.assertIn("size:  4194304", run(*line, "--tls-hostname", "localhost").stdout.decode())
            self.check_refused(run(*line, "--tls-hostname", "store", check=False), "certificate is refused")
        for options, words in ((["-L", "--tls-hostname", "x"], "--tls-hostname is not permitted without --tls-creds"),
                               (["--tls-hostname", "x", "--tls-creds", "tls0", self.image()], "only supported with")):
            self.check_refused(run(VIREO_NBD, *options, check=False), words)

    def test_the_driver(self):
        """All that goes through the tunnel arrives: written and read, by several connections at once."""
        for program in ("qemu-nbd", VIREO_NBD):
            port, _ = self.secure(program, self.x509("server"))
            self.check_refused(self.look(self.x509("client"), self.opts(port)), "Failed to connect")
            self.check_refused(self.look(self.x509("client"), self.opts(port, ",tls-hostname=store")),
                               "certificate is refused")
            _, _, ours = self.serve(self.opts(port, ",tls-hostname=localhost"), "--object", self.x509("client"),
                                    "--image-opts", "-e", "0")
            data = random.Random(port).randbytes(4 * MiB)
            with open(self.path("in"), "wb") as f:
                f.write(data)
            run("nbdcopy", "--flush", self.path("in"), ours)
            run("nbdcopy", ours, self.path("out"))
            self.assertTrue(self.read(self.path("out")) == data)
            self.assertTrue(self.read(self.path("disk.raw")) == data)
        done = run(VIREO_IMG, "info", "--image-opts", self.opts(1, ",tls-hostname=x").replace(",tls-creds=tls0", ""),
                   check=False)
        self.check_refused(done, "tls-hostname requires tls-creds")

    def test_a_server_that_comes_back(self):
        port = free_port()
        line = [VIREO_NBD, "--object", self.x509("server"), "--tls-creds", "tls0", "-b", "127.0.0.1", "-p", port, "-t",
                "-f", "raw", "-e", "0", self.image()]
        first = self.daemon(*line)
        self.wait_for(port)
        _, _, ours = self.serve(self.opts(port, ",tls-hostname=localhost,reconnect-delay=60"), "--object",
                                self.x509("client"), "--image-opts")
        with self.client(ours) as h:
            for _ in range(3):
                before = bytes(h.pread(MiB, 0))
                self.end(first)
                first = self.daemon(*line)
                self.assertTrue(bytes(h.pread(MiB, 0)) == before)

    def test_unix_sockets(self):
        for program in ("qemu-nbd", VIREO_NBD):
            opts = self.unix_server(program)
            for more, ok in (("", True), (",tls-hostname=localhost", True), (",tls-hostname=store", False)):
                self.assertEqual(self.look(self.x509("client"), opts + more).returncode == 0, ok, more)
            stranger = self.strangers()
            self.check_refused(self.look(stranger, opts), "certificate is refused")
            shutil.rmtree(self.path("other-ca"))

    def test_a_descriptor(self):
        """A connection that somebody else made."""
        for more, words in ((",tls-hostname=localhost", None), ("", None), (",tls-hostname=store", "is refused")):
            path = self.unix_server(VIREO_NBD).split("path=")[1].split(",")[0]
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                opts = "driver=nbd,server.type=fd,server.str=%d,tls-creds=tls0,open-timeout=60" % s.fileno()
                done = run(VIREO_IMG, "info", "--object", self.x509("client"), "--image-opts", opts + more, check=False,
                           pass_fds=[s.fileno()])
            if words:
                self.check_refused(done, words)
            else:
                self.assertIn("4 MiB", done.stdout.decode(), done.stderr)

    def test_a_key_with_a_password(self):
        """And priorities: libnbd knows neither."""
        folder = self.path("locked")
        shutil.copytree(self.pki, folder)
        run("openssl", "pkcs8", "-topk8", "-in", self.pki + "/client-key.pem", "-out", folder + "/client-key.pem",
            "-passout", "pass:sesame")
        creds = "tls-creds-x509,id=tls0,endpoint=client,passwordid=s0,dir=" + folder
        port, _ = self.secure(VIREO_NBD, self.x509("server") + ",priority=NORMAL:-VERS-ALL:+VERS-TLS1.2")
        opts = self.opts(port).replace("127.0.0.1", "localhost")
        run(VIREO_IMG, "info", "--object", "secret,id=s0,data=sesame", "--object", creds, "--image-opts", opts)
        self.assertEqual(self.look(self.x509("client") + ",priority=SECURE128", opts).returncode, 0)
        self.check_refused(self.look(self.x509("client") + ",priority=NORMAL:-VERS-ALL:+VERS-TLS1.3", opts), "TLS")
        wrong = run(VIREO_IMG, "info", "--object", "secret,id=s0,data=x", "--object", creds, "--image-opts", opts,
                    check=False)
        self.check_refused(wrong, "client-key.pem")

    def test_servers_that_do_not_play(self):
        good = b"NBDMAGICIHAVEOPT\0\3"
        ack = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\5"
        for words, said in ((b"", "closed the connection"), (b"x" * 18, "newstyle"), (b"NBDMAGIC", "closed"),
                            (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0", "newstyle"), (good, "closed"),
                            (b"NBDMAGICIHAVEOPT\0\0", "newstyle"), (good + b"x" * 20, "no answer to what was asked"),
                            (good + ack + b"\x80\0\0\2\0\0\0\3no!", "does not do TLS: no!"),
                            (good + ack + b"\x80\0\0\2\0\0\0\0", "does not do TLS"),
                            (good + ack + b"\x80\0\0\2\xff\xff\xff\xff", "no answer"),
                            (good + ack + b"\0\0\0\1\0\0\0\0no TLS", "TLS handshake failed")):
            with self.one_shot(words) as port:
                self.check_refused(self.look(self.x509("client"), self.opts(port, ",tls-hostname=x")), said)
        port = free_port()
        self.daemon(VIREO_NBD, "-b", "127.0.0.1", "-p", port, "-t", "-f", "raw", self.image())
        self.wait_for(port)
        self.check_refused(self.look(self.x509("client"), self.opts(port, ",tls-hostname=x")),
                           "the server does not do TLS: TLS not configured")

    @contextlib.contextmanager
    def one_shot(self, words):
        """A server that says this to one client, and ends."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()

            def serve():
                with s.accept()[0] as c:
                    c.sendall(words)
                    c.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionResetError):
                        while c.recv(4096):
                            pass

            thread = threading.Thread(target=serve)
            thread.start()
            yield s.getsockname()[1]
            thread.join()


class Daemon(TlsCase):
    def kill(self, pid_file):
        with contextlib.suppress(OSError):                  # it ended in order, and took its file away
            os.kill(int(self.read(pid_file)), signal.SIGKILL)

    def test_a_relative_folder(self):
        """-daemonize changes to the root folder; keys are read with each handshake."""
        qmp, pid, path = self.path("qmp"), self.path("pid"), self.path("s")
        run(VIREO, "-machine", "none", "-daemonize", "-pidfile", pid, "-qmp", "unix:%s,server=on,wait=off" % qmp,
            "-object", "tls-creds-psk,id=tls0,endpoint=server,dir=.", cwd=self.pki)
        self.addCleanup(self.kill, pid)
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(qmp)
            lines = s.makefile("r")
            lines.readline()
            for name, arguments in (("qmp_capabilities", {}),
                                    ("blockdev-add", {"driver": "file", "node-name": "d", "filename": self.image()}),
                                    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": path}},
                                                          "tls-creds": "tls0"}),
                                    ("nbd-server-add", {"device": "d"})):
                s.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
                self.assertIn("return", json.loads(lines.readline()))
            done = run("nbdinfo", "--size", "nbds+unix://qemu@/d?socket=%s&tls-psk-file=%s/keys.psk" % (path, self.pki),
                       check=False)
            s.sendall(b'{"execute": "quit"}')
            while lines.readline():
                pass
        self.assertEqual(done.stdout, b"4194304\n", done.stderr)


class Machine(Monitored, TlsCase):
    """The server inside the machine."""

    def test_authorization(self):
        port = free_port()
        addr = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}
        uri = "nbds://localhost:%d/disk?tls-certificates=" % port
        self.call("blockdev-add", {"driver": "file", "node-name": "disk", "filename": self.image()})
        self.refused("nbd-server-start", {"addr": addr, "tls-authz": "who"}, "not permitted without tls-creds")
        self.call("object-add", {"qom-type": "tls-creds-x509", "id": "tls0", "endpoint": "server", "dir": self.pki})
        self.refused("nbd-server-start", {"addr": addr, "tls-creds": "tls0", "tls-authz": "who"},
                     "No authorization object with id 'who'")
        rules = [{"match": "*CN=client", "policy": "allow", "format": "glob"}]
        self.call("object-add", {"qom-type": "authz-list", "id": "who", "policy": "deny", "rules": rules})
        self.call("nbd-server-start", {"addr": addr, "tls-creds": "tls0", "tls-authz": "who"})
        self.call("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk"})
        self.check(uri, True, False)
        self.assertEqual(self.call("qom-get", {"path": "/objects/who", "property": "rules"}), rules)
        rules[0]["match"] = "*CN=eve"
        self.call("qom-set", {"path": "/objects/who", "property": "rules", "value": rules})
        self.check(uri, False, True)
        self.call("object-del", {"id": "who"})              # nobody is asked: nobody comes in
        self.check(uri, False, False)
        self.call("object-add", {"qom-type": "authz-simple", "id": "who",
                                 "identity": "C=DE,O=Vireo\\, Ltd,CN=client"})
        self.check(uri, True, False)

    def test_a_refused_client_that_stays(self):
        """It has the only connection for as long as a handshake may take, and no longer."""
        port = free_port()
        self.call("blockdev-add", {"driver": "file", "node-name": "disk", "filename": self.image()})
        self.call("object-add", {"qom-type": "tls-creds-x509", "id": "tls0", "endpoint": "server", "dir": self.pki})
        self.call("object-add", {"qom-type": "authz-simple", "id": "who", "identity": "C=DE,O=Vireo\\, Ltd,CN=client"})
        self.call("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}},
                                       "tls-creds": "tls0", "tls-authz": "who", "max-connections": 1,
                                       "handshake-max-seconds": 1})
        self.call("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk"})
        with self.start_tls(port, self.eve) as t:
            with self.assertRaises(ssl.SSLError):
                t.recv(1)
            good = "nbds://localhost:%d/disk?tls-certificates=%s" % (port, self.pki)
            until(lambda: run("nbdinfo", "--size", good, check=False).returncode == 0, "another client comes in")

    def check(self, uri, client, eve):
        for who, ok in ((self.pki, client), (self.eve, eve)):
            self.assertEqual(run("nbdinfo", "--size", uri + who, check=False).returncode == 0, ok, who)


if __name__ == "__main__":
    main()
