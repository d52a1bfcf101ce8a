// Echoes every connection of descriptor 3, one after the other, until it ends.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    static char buffer[65536];
    for (;;) {
        struct pollfd wait = {.fd = 3, .events = POLLIN};
        int s = accept(3, 0, 0);
        if (s < 0) {
            poll(&wait, 1, -1);
            continue;
        }
        fcntl(s, F_SETFL, 0);
        for (ssize_t got; (got = read(s, buffer, sizeof buffer)) > 0;)
            for (ssize_t sent = 0, n; sent < got; sent += n)
                if ((n = write(s, buffer + sent, got - sent)) < 0) break;
        close(s);
    }
}
