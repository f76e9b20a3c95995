/*
 * Monitors: QMP (JSON, for programs) and HMP (lines of text, for people) on character devices.  A
 * machine may have any number of them, and a listening socket any number of clients.
 *
 * Thread: main, under the VM lock.  Commands run there; what QMP sessions read and write is handled in
 * a thread of their own, if it has been started.
 */
#pragma once
#include "src/chardev/chardev.h"
#include "src/vm.h"

/* From now on new QMP sessions do their I/O, and carry out what is sent out of band, in one thread for
 * all of them. */
bool monitor_start_thread(Vm *vm, GError **error);
/* -qmp, -mon mode=control.  A listening socket serves every connection; other chardevs one session
 * after the other.  @pretty: replies are indented. */
bool monitor_add_qmp(Vm *vm, Chardev *chr, bool pretty, GError **error);
/* -monitor, -mon mode=readline. */
bool monitor_add_hmp(Vm *vm, Chardev *chr, GError **error);
/* Closes every monitor of the machine, and the sockets they listen on, having written what was still
 * queued as far as it goes without waiting. */
void monitor_cleanup(Vm *vm);

/* What query-command-line-options answers: a new CommandLineOptionInfo array, from the option tables of
 * the command line. */
void monitor_set_command_line_options(Vm *vm, json_object *(*describe)(void));
