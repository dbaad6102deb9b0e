/*
 * A mock of a llama.cpp chat server: fast, deterministic, and honest about what it sent.
 *
 *   mock_upstream [--port 0] [--chunks 16] [--pace-ms 0] [--requests-max 0] [--watch-stdin]
 *
 * It prints `TOKENWORKS_ADDRESS 127.0.0.1:PORT` and serves POST (any path: a chat), GET /health, /metrics,
 * /v1/models, /mock/stats (counters) and /mock/truth?after=N (what became of each request that named a tag, oldest first).
 * Requests steer it by `mock:chunks=64,pace=10,...` anywhere in the body or by the header `x-mock: chunks=64,...`;
 * the names stand in `struct wishes` (mock_answer.h). One thread, one epoll; SIGTERM or, with --watch-stdin, the end
 * of stdin stops it. Memory is bounded by the connections: 64 KiB of head, 32 MiB of body, one chunk of answer each.
 * Linux only. Build: cc -O2 -std=c11 -o mock_upstream mock_*.c
 */
#define _GNU_SOURCE
#include "mock_answer.h"
#include "mock_request.h"
#include "mock_truth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NEVER = -1, STEPS_PER_TURN = 256, IDLE_MEMORY = 65536, COALESCED_BYTES = 16384 };

enum state { READING, ANSWERING, SILENT, CLOSING };

struct connection {
    int fd;
    enum state state;
    uint32_t interest;
    struct buffer in, out;
    size_t out_at;
    struct request request;
    bool is_started; /* the head of a stream was sent */
    int64_t due_ms;  /* when to go on; NEVER when not waiting */
    int64_t heap_at; /* place in the heap of waiting connections, NEVER when absent */
    int64_t started_ms;
    int64_t served;
    struct answer answer;
};

static struct wishes defaults = {.chunks = 16, .progress = 1, .step = 1, .prompt = 31, .die = -1, .hang = -1, .error = -1};
static int64_t requests_max;
static int poll_fd, listen_fd;
static bool is_listening = true;
static volatile sig_atomic_t is_stopping;
static struct connection **heap;
static size_t heap_length, heap_capacity;

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- connections that wait for their time: a binary heap by due_ms ---- */

static void heap_put(size_t at, struct connection *connection) {
    heap[at] = connection;
    connection->heap_at = (int64_t)at;
}

static void heap_settle(size_t at) {
    struct connection *moving = heap[at];
    while (at > 0 && heap[(at - 1) / 2]->due_ms > moving->due_ms) {
        heap_put(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (size_t child; (child = at * 2 + 1) < heap_length; at = child) {
        if (child + 1 < heap_length && heap[child + 1]->due_ms < heap[child]->due_ms) child++;
        if (heap[child]->due_ms >= moving->due_ms) break;
        heap_put(at, heap[child]);
    }
    heap_put(at, moving);
}

static void wait_until(struct connection *connection, int64_t due_ms) {
    connection->due_ms = due_ms;
    if (connection->heap_at != NEVER) {
        heap_settle((size_t)connection->heap_at);
        return;
    }
    if (heap_length == heap_capacity) {
        heap_capacity = heap_capacity ? heap_capacity * 2 : 256;
        heap = realloc(heap, heap_capacity * sizeof *heap);
        if (!heap) abort();
    }
    heap_put(heap_length++, connection);
    heap_settle(heap_length - 1);
}

static void stop_waiting(struct connection *connection) {
    if (connection->heap_at == NEVER) return;
    size_t at = (size_t)connection->heap_at;
    connection->heap_at = NEVER;
    struct connection *last = heap[--heap_length];
    if (last == connection) return;
    heap_put(at, last);
    heap_settle(at);
}

/* ---- connections ---- */

static void watch(struct connection *connection, uint32_t interest) {
    if (connection->interest == interest) return;
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(poll_fd, EPOLL_CTL_MOD, connection->fd, &event) == 0) connection->interest = interest;
}

static void listen_again(bool on) {
    if (is_listening == on) return;
    struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.ptr = &listen_fd};
    if (epoll_ctl(poll_fd, EPOLL_CTL_MOD, listen_fd, &event) == 0) is_listening = on;
}

static void drop(struct connection *connection) {
    if (connection->state == ANSWERING || connection->state == SILENT)
        record_outcome(&connection->answer, ABORTED, tokens_so_far(&connection->answer));
    stop_waiting(connection);
    close(connection->fd);
    stats.open--;
    free(connection->in.bytes);
    free(connection->out.bytes);
    free(connection);
    listen_again(true);
}

static void accept_all(void) {
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) listen_again(false);
            if (errno == ECONNABORTED || errno == EINTR) continue;
            return;
        }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection) abort();
        connection->fd = fd;
        connection->due_ms = connection->heap_at = NEVER;
        connection->interest = EPOLLIN | EPOLLRDHUP;
        struct epoll_event event = {.events = connection->interest, .data.ptr = connection};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
            close(fd);
            free(connection);
            continue;
        }
        stats.accepted++;
        stats.open++;
    }
}

/* Write what is in `out`. Returns 1 when all is gone, 0 when the peer must read first, -1 when it has left. */
static int flush(struct connection *connection) {
    while (connection->out_at < connection->out.length) {
        ssize_t sent = send(connection->fd, connection->out.bytes + connection->out_at,
                            connection->out.length - connection->out_at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
        connection->out_at += (size_t)sent;
    }
    connection->out.length = connection->out_at = 0;
    return 1;
}

/* ---- answering ---- */

static void answer_get(const char *path, struct buffer *out) {
    static const char health[] = "{\"status\":\"ok\"}";
    static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"smollm2-135m-instruct\",\"object\":\"model\","
                                 "\"created\":1700000000,\"owned_by\":\"llamacpp\"}]}";
    static const char nothing[] = "{\"error\":{\"code\":404,\"message\":\"File Not Found\",\"type\":\"not_found_error\"}}";
    const char *after = strstr(path, "?after=");
    if (strcmp(path, "/health") == 0) render_json(out, 200, health, sizeof health - 1);
    else if (strcmp(path, "/v1/models") == 0) render_json(out, 200, models, sizeof models - 1);
    else if (strcmp(path, "/metrics") == 0) render_metrics(out);
    else if (strcmp(path, "/mock/stats") == 0) render_stats(out);
    else if (strncmp(path, "/mock/truth", 11) == 0) render_truth(out, after ? strtoull(after + 7, NULL, 10) : 0);
    else render_json(out, 404, nothing, sizeof nothing - 1);
}

static void begin(struct connection *connection) {
    struct request *request = &connection->request;
    struct answer *answer = &connection->answer;
    connection->started_ms = now_ms();
    connection->is_started = false;
    connection->served++;
    if (requests_max && connection->served >= requests_max) request->is_kept = false;
    if (!request->is_post) {
        answer_get(request->path, &connection->out);
        connection->state = CLOSING; /* nothing more to make; `go_on` decides whether it really closes */
        return;
    }
    read_request(answer, connection->in.bytes + request->head_length, request->body_length);
    begin_answer(answer, ++stats.requests);
    stats.answering++;
    connection->state = answer->wishes.mute ? SILENT : ANSWERING;
}

/* The request is answered: forget it, keep what was pipelined behind it. */
static void end(struct connection *connection) {
    size_t left = connection->in.length - connection->request.consumed;
    memmove(connection->in.bytes, connection->in.bytes + connection->request.consumed, left);
    connection->in.length = left;
    connection->request.has_head = false;
    connection->state = READING;
    struct buffer *buffers[] = {&connection->in, &connection->out};
    for (size_t i = 0; i < 2; i++) {
        if (buffers[i]->capacity <= IDLE_MEMORY || buffers[i]->length) continue;
        free(buffers[i]->bytes);
        *buffers[i] = (struct buffer){0};
    }
}

static int64_t due_of_next(const struct connection *connection, enum step_kind kind) {
    const struct wishes *wishes = &connection->answer.wishes;
    if (kind == STEP_PROGRESS) return connection->started_ms;
    int64_t first = connection->started_ms + wishes->prefill_ms;
    return kind == STEP_CONTENT ? first + connection->answer.round * wishes->pace_ms : first;
}

enum next { GO_ON, WAIT, LEAVE };

/* Make the next part of an unstreamed answer (or error): there is only one. */
static enum next make_plain(struct connection *connection) {
    struct answer *answer = &connection->answer;
    const struct wishes *wishes = &answer->wishes;
    if (wishes->die >= 0 || wishes->hang >= 0) answer->chunks_sent = wishes->die >= 0 ? wishes->die : wishes->hang;
    if (wishes->die >= 0) {
        record_outcome(answer, DIED, tokens_so_far(answer));
        connection->state = CLOSING;
        return LEAVE;
    }
    if (wishes->hang >= 0) {
        connection->state = SILENT;
        return WAIT;
    }
    int64_t due = connection->started_ms + wishes->prefill_ms + (wishes->status ? 0 : wishes->chunks * wishes->pace_ms);
    if (due > now_ms()) {
        wait_until(connection, due);
        return WAIT;
    }
    render_plain(answer, &connection->out);
    record_outcome(answer, wishes->status ? FAILED : FINISHED, tokens_in_full(answer));
    connection->state = CLOSING;
    return GO_ON;
}

/* Make the next part of a stream, if its time has come. */
static enum next make_stream(struct connection *connection) {
    struct answer *answer = &connection->answer;
    const struct wishes *wishes = &answer->wishes;
    if (!connection->is_started) {
        connection->is_started = true;
        render_stream_head(&connection->out);
        return GO_ON;
    }
    enum step_kind kind = next_step(answer);
    bool is_late_enough = kind != STEP_PROGRESS && kind != STEP_OVER;
    if (is_late_enough && wishes->die >= 0 && answer->chunks_sent >= wishes->die) {
        record_outcome(answer, DIED, tokens_so_far(answer));
        connection->state = CLOSING;
        return LEAVE;
    }
    if (is_late_enough && wishes->hang >= 0 && answer->chunks_sent >= wishes->hang) {
        connection->state = SILENT;
        return WAIT;
    }
    if (wishes->pace_ms || wishes->prefill_ms) {
        int64_t due = due_of_next(connection, kind);
        if (due > now_ms()) {
            wait_until(connection, due);
            return WAIT;
        }
    }
    do {
        kind = render_step(answer, &connection->out);
    } while (wishes->coalesce && !wishes->pace_ms && kind != STEP_OVER && connection->out.length < COALESCED_BYTES &&
             wishes->die < 0 && wishes->hang < 0);
    if (kind == STEP_ERROR) answer->wishes.error = -2; /* it failed; what remains is the end of the body */
    if (kind == STEP_OVER) {
        record_outcome(answer, answer->wishes.error == -2 ? FAILED : FINISHED, tokens_so_far(answer));
        connection->state = CLOSING;
    }
    return GO_ON;
}

/* Look for the next request in what has been read. 1: there is one, 0: not yet, -1: it never will be one. */
static int next_request(struct connection *connection) {
    struct request *request = &connection->request;
    if (!connection->in.length) return 0;
    if (!request->has_head) {
        memset(&connection->answer, 0, sizeof connection->answer);
        connection->answer.wishes = defaults;
    }
    int whole = read_whole(request, &connection->in, &connection->answer.wishes);
    if (whole == 0 && request->has_head && request->wants_continue) {
        request->wants_continue = false;
        append_text(&connection->out, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (whole == 1) begin(connection);
    return whole;
}

/* One step of a connection whose output is all written. */
static enum next step(struct connection *connection) {
    if (connection->state == CLOSING) {
        if (!connection->request.is_kept) return LEAVE;
        end(connection);
    }
    if (connection->state == SILENT) return WAIT;
    if (connection->state == READING) {
        int found = next_request(connection);
        stats.rejected += found < 0;
        if (found < 0) return LEAVE;
        return found == 0 && connection->out.length == 0 ? WAIT : GO_ON;
    }
    bool is_plain = !connection->answer.stream || connection->answer.wishes.status;
    return is_plain ? make_plain(connection) : make_stream(connection);
}

/* Drive a connection as far as it goes: write, make, take the next pipelined request. It may be dropped. */
static void go_on(struct connection *connection) {
    for (int steps = 0; steps < STEPS_PER_TURN; steps++) {
        int flushed = flush(connection);
        if (flushed == 0) {
            watch(connection, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
            return;
        }
        enum next next = flushed < 0 ? LEAVE : step(connection);
        if (next == LEAVE) {
            drop(connection);
            return;
        }
        if (next == WAIT) {
            watch(connection, EPOLLIN | EPOLLRDHUP);
            return;
        }
    }
    wait_until(connection, now_ms()); /* others have a turn first */
}

/* Read what the peer sent. False when the connection is dropped. */
static bool take_in(struct connection *connection) {
    for (;;) {
        size_t limit = (size_t)HEAD_MAX + BODY_MAX + 65536;
        if (connection->in.length >= limit) return drop(connection), false;
        buffer_reserve(&connection->in, connection->request.has_head ? 65536 : 4096);
        size_t room = connection->in.capacity - connection->in.length;
        ssize_t got = recv(connection->fd, connection->in.bytes + connection->in.length, room, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
        if (got <= 0) return drop(connection), false;
        connection->in.length += (size_t)got;
        if ((size_t)got < room) return true;
    }
}

static void handle(struct connection *connection, uint32_t events) {
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) { /* as llama.cpp: a peer that stops sending has left */
        drop(connection);
        return;
    }
    if ((events & EPOLLIN) && !take_in(connection)) return;
    if (connection->state == READING || (events & EPOLLOUT)) go_on(connection);
}

static void run_due(void) {
    int64_t now = heap_length ? now_ms() : 0;
    size_t most = heap_length; /* those that come due again meanwhile wait for the next turn */
    while (most-- && heap_length && heap[0]->due_ms <= now) {
        struct connection *connection = heap[0];
        stop_waiting(connection);
        go_on(connection);
    }
}

/* ---- start ---- */

static void on_signal(int number) {
    (void)number;
    is_stopping = 1;
}

static int open_listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    socklen_t length = sizeof address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096) ||
        getsockname(fd, (struct sockaddr *)&address, &length)) {
        fprintf(stderr, "mock_upstream: cannot listen on 127.0.0.1:%d: %s\n", port, strerror(errno));
        exit(1);
    }
    printf("TOKENWORKS_ADDRESS 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static int64_t number_after(int argc, char **argv, int at) {
    if (at + 1 < argc) return strtoll(argv[at + 1], NULL, 10);
    fprintf(stderr, "mock_upstream: %s needs a number\n", argv[at]);
    exit(2);
}

int main(int argc, char **argv) {
    int port = 0;
    bool watches_stdin = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--watch-stdin") == 0) watches_stdin = true;
        else if (strcmp(argv[i], "--port") == 0) port = (int)number_after(argc, argv, i++);
        else if (strcmp(argv[i], "--chunks") == 0) defaults.chunks = number_after(argc, argv, i++);
        else if (strcmp(argv[i], "--pace-ms") == 0) defaults.pace_ms = number_after(argc, argv, i++);
        else if (strcmp(argv[i], "--requests-max") == 0) requests_max = number_after(argc, argv, i++);
        else return fprintf(stderr, "mock_upstream: unknown option %s\n", argv[i]), 2;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_fd = open_listener(port);
    struct epoll_event events[512] = {{.events = EPOLLIN, .data.ptr = &listen_fd}};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listen_fd, events);
    events[0].data.ptr = &is_listening; /* stands for stdin */
    if (watches_stdin) epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, events);
    while (!is_stopping) {
        int64_t wait = heap_length ? heap[0]->due_ms - now_ms() : 1000;
        int count = epoll_wait(poll_fd, events, 512, wait < 0 ? 0 : wait > 1000 ? 1000 : (int)wait);
        for (int i = 0; i < count; i++) {
            char ignored[256];
            if (events[i].data.ptr == &listen_fd) accept_all();
            else if (events[i].data.ptr == &is_listening) is_stopping = read(STDIN_FILENO, ignored, sizeof ignored) <= 0;
            else handle(events[i].data.ptr, events[i].events);
        }
        run_due();
    }
    return 0;
}
