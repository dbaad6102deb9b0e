/*
 * A load generator that checks every answer: C keep-alive connections, each sending its next request when the last
 * answer is complete. Prints one JSON object when it is done.
 *
 *   load --address HOST:PORT --bodies FILE [--path /v1/chat/completions] [--key KEY] [--connections 64]
 *        [--requests N] [--seconds S] [--stagger-ms M] [--cut-after K] [--wait-seconds 30]
 *        [--status 200] [--chunks K] [--want TEXT]... [--ban TEXT]...
 *
 * --bodies: request bodies, one per line, used in turn. It stops starting requests after N of them or S seconds,
 * whichever comes first (one must be given), and gives up on what is unanswered after --wait-seconds more.
 * --chunks: a stream must bring exactly the mock's K words in order. --cut-after: leave after K content events.
 * "complete": good answers; "wrong": whole but not as expected; "broken": the connection ended first; "cut": left on
 * purpose. Linux only. Build: cc -O2 -std=c11 -o load load.c load_answer.c
 */
#define _GNU_SOURCE
#include "load_answer.h"

#include <arpa/inet.h>
#include <errno.h>
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

enum { RETRY_NS = 10000000, BUCKETS = 64 * 58, STATUSES = 600 };

struct connection {
    int fd; /* -1: not connected */
    bool is_connecting, is_waiting, is_blocked, is_busy, has_content;
    int64_t resume_ns, started_ns;
    size_t body, sent;
    struct reader reader;
};

struct request_bytes {
    char *bytes;
    size_t length;
};

/* Counts of microseconds in buckets of 1/32 of a power of two. */
struct histogram {
    uint64_t buckets[BUCKETS], count, max;
};

static struct {
    struct sockaddr_in address;
    const char *host, *path, *key, *bodies;
    int64_t connections, requests, cut_after, stagger_ms;
    double seconds, wait_seconds;
    struct expectation expectation;
} options = {.path = "/v1/chat/completions",
             .connections = 64,
             .cut_after = -1,
             .wait_seconds = 30,
             .expectation = {.status = 200, .chunks = -1}};

static struct {
    uint64_t started, complete, wrong, broken, cut, unanswered, connects, chunks, tokens, bytes;
    uint64_t statuses[STATUSES];
    const char *why;
} counts;

static struct request_bytes *requests;
static size_t request_count, next_body;
static struct histogram whole_us, first_us;
static int poll_fd;
static int64_t start_ns, last_ns, busy;
static int64_t earliest_ns; /* when the first of the waiting connections is due */

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- latencies ---- */

static void note(struct histogram *histogram, int64_t ns) {
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    int shift = us < 64 ? 0 : 58 - __builtin_clzll(us);
    size_t bucket = us < 64 ? (size_t)us : (size_t)shift * 32 + (size_t)(us >> shift) + 0;
    histogram->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    histogram->count++;
    if (us > histogram->max) histogram->max = us;
}

/* The upper edge of the bucket where the share `p` of the values ends. */
static uint64_t percentile(const struct histogram *histogram, double p) {
    uint64_t seen = 0, wanted = (uint64_t)(p * (double)histogram->count + 0.999999);
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen < wanted || !seen) continue;
        if (i < 64) return i;
        size_t shift = (i - 32) / 32;
        uint64_t edge = ((uint64_t)(i - shift * 32 + 1) << shift) - 1;
        return edge < histogram->max ? edge : histogram->max;
    }
    return 0;
}

/* ---- connections ---- */

static bool may_start(void) {
    if (options.requests && counts.started >= (uint64_t)options.requests) return false;
    return !options.seconds || (double)(now_ns() - start_ns) < options.seconds * 1e9;
}

static void disconnect(struct connection *connection, int64_t resume_ns) {
    if (connection->fd >= 0) close(connection->fd);
    if (connection->is_busy) busy--;
    connection->fd = -1;
    connection->is_busy = connection->is_connecting = connection->is_blocked = false;
    connection->is_waiting = true;
    connection->resume_ns = resume_ns;
    if (resume_ns < earliest_ns) earliest_ns = resume_ns;
}

static void break_off(struct connection *connection) {
    if (connection->is_busy) counts.broken++;
    disconnect(connection, now_ns() + RETRY_NS);
}

static void watch(struct connection *connection, bool is_blocked) {
    if (connection->is_blocked == is_blocked) return;
    struct epoll_event event = {.events = EPOLLIN | (is_blocked ? EPOLLOUT : 0), .data.ptr = connection};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, connection->fd, &event);
    connection->is_blocked = is_blocked;
}

static void send_rest(struct connection *connection) {
    const struct request_bytes *request = &requests[connection->body];
    while (connection->sent < request->length) {
        ssize_t sent = send(connection->fd, request->bytes + connection->sent, request->length - connection->sent,
                            MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            watch(connection, true);
            return;
        }
        if (sent < 0) {
            break_off(connection);
            return;
        }
        connection->sent += (size_t)sent;
    }
    watch(connection, false);
}

static void start_request(struct connection *connection) {
    if (!may_start()) {
        disconnect(connection, INT64_MAX);
        return;
    }
    connection->body = next_body++ % request_count;
    connection->sent = 0;
    connection->is_busy = true;
    connection->has_content = false;
    begin_reading(&connection->reader);
    counts.started++;
    busy++;
    connection->started_ns = now_ns();
    send_rest(connection);
}

static void open_connection(struct connection *connection) {
    connection->is_waiting = false;
    if (!may_start()) {
        disconnect(connection, INT64_MAX);
        return;
    }
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) {
        break_off(connection);
        return;
    }
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = connection};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, connection->fd, &event);
    connection->is_blocked = connection->is_connecting = true;
    if (connect(connection->fd, (struct sockaddr *)&options.address, sizeof options.address) && errno != EINPROGRESS)
        break_off(connection);
}

static void on_connected(struct connection *connection) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        break_off(connection);
        return;
    }
    counts.connects++;
    connection->is_connecting = false;
    start_request(connection);
}

/* ---- answers ---- */

static void add_up(const struct reader *reader) {
    counts.chunks += reader->chunks;
    counts.tokens += reader->tokens;
    counts.bytes += reader->body_bytes;
}

static void complete(struct connection *connection) {
    struct reader *reader = &connection->reader;
    last_ns = now_ns();
    if (is_good(reader, &options.expectation)) {
        counts.complete++;
        note(&whole_us, last_ns - connection->started_ns);
    } else {
        counts.wrong++;
        counts.why = reader->why;
    }
    add_up(reader);
    if (reader->status > 0 && reader->status < STATUSES) counts.statuses[reader->status]++;
    connection->is_busy = false;
    busy--;
    if (reader->is_kept) start_request(connection);
    else disconnect(connection, 0);
}

/* True when the connection may go on reading. */
static bool take(struct connection *connection, const char *bytes, size_t length) {
    struct reader *reader = &connection->reader;
    if (!connection->is_busy) { /* an answer that nobody asked for */
        counts.wrong++;
        counts.why = "bytes without a request";
        disconnect(connection, 0);
        return false;
    }
    long used = read_answer(reader, &options.expectation, bytes, length);
    if (used < 0) {
        counts.wrong++;
        counts.why = "not HTTP";
        connection->is_busy = false;
        busy--;
        disconnect(connection, now_ns() + RETRY_NS);
        return false;
    }
    if (!connection->has_content && (reader->chunks || (!reader->is_stream && reader->place == COMPLETE))) {
        connection->has_content = true;
        note(&first_us, now_ns() - connection->started_ns);
    }
    if (options.cut_after >= 0 && reader->place != COMPLETE && reader->place != IN_HEAD &&
        reader->chunks >= (uint64_t)options.cut_after) {
        counts.cut++;
        add_up(reader);
        last_ns = now_ns();
        disconnect(connection, 0);
        return false;
    }
    if (reader->place != COMPLETE) return true;
    if ((size_t)used < length) {
        reader->is_bad = true;
        reader->why = "bytes behind the end";
        reader->is_kept = false;
    }
    complete(connection);
    return connection->fd >= 0;
}

static void read_some(struct connection *connection) {
    static char bytes[262144];
    ssize_t got = recv(connection->fd, bytes, sizeof bytes, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR || errno == EWOULDBLOCK)) return;
    if (got <= 0) break_off(connection);
    else take(connection, bytes, (size_t)got);
}

/* ---- start and report ---- */

static void fail(const char *what) {
    fprintf(stderr, "load: %s\n", what);
    exit(2);
}

static void read_bodies(void) {
    FILE *file = fopen(options.bodies, "r");
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    if (!file) fail("cannot read the file of --bodies");
    while ((length = getline(&line, &capacity, file)) >= 0) {
        if (length && line[length - 1] == '\n') length--;
        if (!length) continue;
        size_t room = (size_t)length + strlen(options.path) + strlen(options.host) + strlen(options.key ? options.key : "") + 256;
        struct request_bytes request = {.bytes = malloc(room)};
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        if (!request.bytes || !requests) abort();
        int head = snprintf(request.bytes, room,
                            "POST %s HTTP/1.1\r\nHost: %s\r\n%s%s%sContent-Type: application/json\r\n"
                            "Content-Length: %zd\r\n\r\n",
                            options.path, options.host, options.key ? "Authorization: Bearer " : "",
                            options.key ? options.key : "", options.key ? "\r\n" : "", length);
        memcpy(request.bytes + head, line, (size_t)length);
        request.length = (size_t)head + (size_t)length;
        requests[request_count++] = request;
    }
    free(line);
    fclose(file);
    if (!request_count) fail("the file of --bodies is empty");
}

static void set_address(const char *text) {
    char host[64];
    const char *colon = strrchr(text, ':');
    options.host = text;
    if (!colon || (size_t)(colon - text) >= sizeof host) fail("--address must be HOST:PORT");
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    options.address.sin_family = AF_INET;
    options.address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &options.address.sin_addr) != 1) fail("--address must be IPv4:PORT");
}

static void set_option(const char *name, const char *value) {
    struct expectation *expectation = &options.expectation;
    if (!strcmp(name, "--address")) set_address(value);
    else if (!strcmp(name, "--path")) options.path = value;
    else if (!strcmp(name, "--key")) options.key = value;
    else if (!strcmp(name, "--bodies")) options.bodies = value;
    else if (!strcmp(name, "--connections")) options.connections = strtoll(value, NULL, 10);
    else if (!strcmp(name, "--requests")) options.requests = strtoll(value, NULL, 10);
    else if (!strcmp(name, "--seconds")) options.seconds = strtod(value, NULL);
    else if (!strcmp(name, "--wait-seconds")) options.wait_seconds = strtod(value, NULL);
    else if (!strcmp(name, "--stagger-ms")) options.stagger_ms = strtoll(value, NULL, 10);
    else if (!strcmp(name, "--cut-after")) options.cut_after = strtoll(value, NULL, 10);
    else if (!strcmp(name, "--status")) expectation->status = (int)strtol(value, NULL, 10);
    else if (!strcmp(name, "--chunks")) expectation->chunks = strtoll(value, NULL, 10);
    else if (!strcmp(name, "--want") && expectation->wanted_count < WORDS_MAX) expectation->wanted[expectation->wanted_count++] = value;
    else if (!strcmp(name, "--ban") && expectation->banned_count < WORDS_MAX) expectation->banned[expectation->banned_count++] = value;
    else fail("unknown option; the list stands at the top of load.c");
}

static void print_latency(const char *name, const struct histogram *histogram) {
    printf("\"%s\":{\"count\":%llu,\"p50\":%llu,\"p90\":%llu,\"p99\":%llu,\"max\":%llu},", name,
           (unsigned long long)histogram->count, (unsigned long long)percentile(histogram, 0.5),
           (unsigned long long)percentile(histogram, 0.9), (unsigned long long)percentile(histogram, 0.99),
           (unsigned long long)histogram->max);
}

static void report(void) {
    double seconds = (double)((last_ns ? last_ns : now_ns()) - start_ns) / 1e9;
    printf("{\"started\":%llu,\"complete\":%llu,\"wrong\":%llu,\"broken\":%llu,\"cut\":%llu,\"unanswered\":%llu,"
           "\"connects\":%llu,\"chunks\":%llu,\"tokens\":%llu,\"bytes\":%llu,\"seconds\":%.6f,",
           (unsigned long long)counts.started, (unsigned long long)counts.complete, (unsigned long long)counts.wrong,
           (unsigned long long)counts.broken, (unsigned long long)counts.cut, (unsigned long long)counts.unanswered,
           (unsigned long long)counts.connects, (unsigned long long)counts.chunks, (unsigned long long)counts.tokens,
           (unsigned long long)counts.bytes, seconds);
    print_latency("latency_us", &whole_us);
    print_latency("first_content_us", &first_us);
    printf("\"statuses\":{");
    for (int status = 0, is_first = 1; status < STATUSES; status++) {
        if (!counts.statuses[status]) continue;
        printf("%s\"%d\":%llu", is_first ? "" : ",", status, (unsigned long long)counts.statuses[status]);
        is_first = 0;
    }
    printf("},\"why\":\"%s\"}\n", counts.why ? counts.why : "");
}

/* Open what is due; returns false when nothing is left to do. */
static bool open_due(struct connection *connections) {
    int64_t now = now_ns();
    if (!may_start()) return busy;
    if (earliest_ns > now) return true;
    earliest_ns = INT64_MAX;
    for (int64_t i = 0; i < options.connections; i++) {
        struct connection *connection = &connections[i];
        if (!connection->is_waiting) continue;
        if (connection->resume_ns <= now) open_connection(connection);
        else if (connection->resume_ns < earliest_ns) earliest_ns = connection->resume_ns;
    }
    return true;
}

static void run(struct connection *connections) {
    static struct epoll_event events[512];
    int64_t give_up_ns = 0;
    while (open_due(connections)) {
        if (!may_start() && !give_up_ns) give_up_ns = now_ns() + (int64_t)(options.wait_seconds * 1e9);
        if (give_up_ns && now_ns() > give_up_ns) break;
        int count = epoll_wait(poll_fd, events, 512, 1);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection->fd < 0) continue;
            if (connection->is_connecting) on_connected(connection);
            else if (events[i].events & EPOLLOUT) send_rest(connection);
            else read_some(connection);
        }
    }
    counts.unanswered = (uint64_t)busy;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) fail("an option lacks its value");
        set_option(argv[i], argv[i + 1]);
    }
    if (!options.host || !options.bodies) fail("--address and --bodies are needed");
    if (!options.requests && options.seconds <= 0) fail("--requests or --seconds is needed");
    if (options.connections < 1) fail("--connections must be at least 1");
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    read_bodies();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc((size_t)options.connections, sizeof *connections);
    if (!connections) abort();
    start_ns = now_ns();
    for (int64_t i = 0; i < options.connections; i++) {
        connections[i].fd = -1;
        connections[i].is_waiting = true;
        connections[i].resume_ns = start_ns + options.stagger_ms * 1000000 * i / options.connections;
    }
    run(connections);
    report();
    for (int64_t i = 0; i < options.connections; i++) {
        if (connections[i].fd >= 0) close(connections[i].fd);
        free(connections[i].reader.bytes);
    }
    for (size_t i = 0; i < request_count; i++) free(requests[i].bytes);
    free(requests);
    free(connections);
    return counts.wrong || counts.broken || counts.unanswered ? 1 : 0;
}
