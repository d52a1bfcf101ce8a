// A small HTTPS server that has never heard of TLS: the Keep ends it, here arrive plain bytes.
//
// It listens on the descriptor that Enarx.toml names "web" and serves GET / : the package's greeting.txt, as a page or
// as text, whichever the client prefers. One thread, never blocked by anybody: every socket is non-blocking and
// poll() says who is ready. With REQUESTS=n in the environment it ends after n answers, otherwise it serves until the
// Keep is told to stop.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS 64
#define REQUEST_BYTES 4096   // of head; there is no body in a GET
#define GREETING_BYTES 65536
#define RESPONSE_BYTES (GREETING_BYTES * 6 + 4096)  // every byte may need to be escaped
#define PATIENCE 10          // seconds that a client may take, from first byte to last

struct client {
    int fd;
    time_t since;
    size_t received, sent, length;
    char request[REQUEST_BYTES + 1];
    char *response;          // set once the request is complete
};

static struct client clients[CLIENTS];
static int count;
static char greeting[GREETING_BYTES + 1];
static size_t greeting_length;

// -- what the Keep gave us

static int descriptor_named(const char *wanted) {
    const char *names = getenv("FD_NAMES");
    for (int fd = 0; names; fd++) {
        const char *end = strchr(names, ':');
        size_t length = end ? (size_t)(end - names) : strlen(names);
        if (length == strlen(wanted) && !memcmp(names, wanted, length)) return fd;
        names = end ? end + 1 : NULL;
    }
    return -1;
}

static int read_greeting(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    greeting_length = fread(greeting, 1, GREETING_BYTES, file);
    fclose(file);
    return 0;
}

static time_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec;
}

// -- answers

static char *append(char *at, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    at += vsprintf(at, format, arguments);
    va_end(arguments);
    return at;
}

static size_t page(char *to) {
    char *at = append(to, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Hello from a Keep</title>\n"
                          "<h1>Hello from a Keep</h1>\n<pre>");
    for (size_t i = 0; i < greeting_length; i++) {
        char c = greeting[i];
        if (c == '<') at = append(at, "&lt;");
        else if (c == '>') at = append(at, "&gt;");
        else if (c == '&') at = append(at, "&amp;");
        else *at++ = c;
    }
    return append(at, "</pre>\n</html>\n") - to;
}

static void answer(struct client *client, const char *status, const char *type, const char *body, size_t length,
                   int head_only) {
    client->response = malloc(length + 512);
    if (!client->response) { client->length = 0; return; }
    char *at = append(client->response,
                      "HTTP/1.1 %s\r\nContent-Type: %s; charset=utf-8\r\nContent-Length: %zu\r\n"
                      "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%sConnection: close\r\n\r\n",
                      status, type, length, status[0] == '4' && status[2] == '5' ? "Allow: GET, HEAD\r\n" : "");
    if (!head_only) {
        memcpy(at, body, length);
        at += length;
    }
    client->length = at - client->response;
}

static int prefers_html(const char *request) {
    for (const char *line = strstr(request, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "accept:", 7)) continue;
        const char *end = strstr(line + 2, "\r\n"), *html = strstr(line + 2, "text/html");
        return html && end && html < end;
    }
    return 0;
}

static void respond(struct client *client) {
    static char body[RESPONSE_BYTES];
    const char *request = client->request;
    int head = !strncmp(request, "HEAD ", 5);
    if (!head && strncmp(request, "GET ", 4)) {
        answer(client, "405 Method Not Allowed", "text/plain", "only GET\n", 9, 0);
        return;
    }
    const char *path = request + (head ? 5 : 4);
    if (strncmp(path, "/ ", 2)) answer(client, "404 Not Found", "text/plain", "only /\n", 7, head);
    else if (prefers_html(request)) answer(client, "200 OK", "text/html", body, page(body), head);
    else answer(client, "200 OK", "text/plain", greeting, greeting_length, head);
}

// -- clients

static void welcome(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return;
    if (count == CLIENTS) {  // the oldest has had its time
        close(clients[0].fd);
        free(clients[0].response);
        memmove(clients, clients + 1, --count * sizeof *clients);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    clients[count++] = (struct client){.fd = fd, .since = now()};
}

// Returns 1 when the client is done with, 0 while there is more to come.
static int serve(struct client *client) {
    if (!client->response) {
        ssize_t got = read(client->fd, client->request + client->received, REQUEST_BYTES - client->received);
        if (got < 0) return errno != EAGAIN;
        client->received += got;
        client->request[client->received] = 0;
        if (strstr(client->request, "\r\n\r\n")) respond(client);
        else if (!got) return 1;
        else if (client->received == REQUEST_BYTES)
            answer(client, "431 Request Header Fields Too Large", "text/plain", "too long\n", 9, 0);
        else return 0;
    }
    while (client->sent < client->length) {
        ssize_t put = write(client->fd, client->response + client->sent, client->length - client->sent);
        if (put < 0) return errno != EAGAIN;
        client->sent += put;
    }
    return 1;
}

int main(void) {
    const char *limit = getenv("REQUESTS");
    long left = limit && *limit ? atol(limit) : -1;
    int web = descriptor_named("web");
    if (web < 0) return fprintf(stderr, "hello-keep: Enarx.toml names no file \"web\"\n"), 1;
    if (read_greeting("/package/greeting.txt")) return fprintf(stderr, "hello-keep: the package has no greeting.txt\n"), 1;
    fcntl(web, F_SETFL, O_NONBLOCK);
    printf("hello-keep: serving on descriptor %d\n", web);
    fflush(stdout);

    while (left) {
        struct pollfd wanted[CLIENTS + 1] = {{.fd = web, .events = POLLIN}};
        for (int i = 0; i < count; i++)
            wanted[i + 1] = (struct pollfd){.fd = clients[i].fd, .events = clients[i].response ? POLLOUT : POLLIN};
        int served = count;
        if (poll(wanted, served + 1, count ? 1000 : -1) < 0) return perror("hello-keep: poll"), 1;
        time_t deadline = now() - PATIENCE;
        for (int i = served - 1; i >= 0; i--) {
            if (!(wanted[i + 1].revents && serve(&clients[i])) && clients[i].since > deadline) continue;
            int answered = clients[i].response && clients[i].sent == clients[i].length;
            close(clients[i].fd);
            free(clients[i].response);
            memmove(clients + i, clients + i + 1, (--count - i) * sizeof *clients);
            if (answered && left > 0 && !--left) break;
        }
        if (left && wanted[0].revents) welcome(web);
    }
    return 0;
}
