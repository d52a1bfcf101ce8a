// A small HTTP/1.1 server on descriptor 3: one thread, keep-alive, any number of clients. GET /end ends it.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 4096, HEAD = 2048 };
static struct pollfd all[CLIENTS];
static char *heads[CLIENTS];
static int used[CLIENTS];

int main(void) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";
    int count = 1;
    fcntl(3, F_SETFL, O_NONBLOCK);
    all[0] = (struct pollfd){.fd = 3, .events = POLLIN};
    for (;;) {
        if (poll(all, count, -1) < 0) return 1;
        while (all[0].revents & POLLIN && count < CLIENTS) {
            int s = accept(3, 0, 0);
            if (s < 0) break;
            fcntl(s, F_SETFL, O_NONBLOCK);
            heads[count] = malloc(HEAD);
            used[count] = 0;
            all[count++] = (struct pollfd){.fd = s, .events = POLLIN};
        }
        for (int i = 1; i < count; i++) {
            if (!all[i].revents) continue;
            ssize_t got = read(all[i].fd, heads[i] + used[i], HEAD - 1 - used[i]);
            if (got < 0 && errno == EAGAIN) continue;
            if (got > 0) {
                used[i] += got;
                heads[i][used[i]] = 0;
                if (!strstr(heads[i], "\r\n\r\n")) {
                    if (used[i] < HEAD - 1) continue;
                    got = 0;
                } else {
                    write(all[i].fd, answer, sizeof answer - 1);
                    if (!strncmp(heads[i], "GET /end ", 9)) return 0;
                    used[i] = 0;
                }
            }
            if (got <= 0) {
                close(all[i].fd);
                free(heads[i]);
                count--;
                all[i] = all[count], heads[i] = heads[count], used[i] = used[count];
                i--;
            }
        }
    }
}
