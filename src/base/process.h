/*
 * What programs that serve in the background have in common: leaving the terminal, a file with the
 * process id, signals that end them in order.  Main thread, before others are started.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

/* Goes on in a daemon: a session of its own without a terminal, not its leader.  Returns there, with
 * the descriptor on which the parent waits; never in the parent, which ends with 0 at process_ready,
 * with 1 if the daemon ends before.  @option: what asked for it, for the message if it fails. */
int process_daemonize(const char *option);
/* The daemon serves from now on: standard input and outputs lead nowhere, the parent may go.  Takes
 * @fd over. */
bool process_ready(int fd, const char *option, GError **error);

/* Writes the process id into @path, which is created.  It is locked for as long as *ret_fd is open,
 * so that no two processes share one; the caller removes it.  @option: for errors. */
bool process_write_pid(const char *option, const char *path, int *ret_fd, GError **error);

/* SIGINT, SIGTERM and SIGHUP come out of the descriptor that is returned (signalfd(2)) from now on;
 * SIGPIPE is ignored.  -1: the host refuses. */
int process_take_signals(void);
