/* Reading answers. See load_answer.h. */
#define _GNU_SOURCE
#include "load_answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_MAX = 65536, BODY_MAX = 67108864 };

static void keep(struct reader *reader, const char *bytes, size_t length) {
    if (reader->length + length + 1 > reader->capacity) {
        size_t capacity = reader->capacity ? reader->capacity : 4096;
        while (capacity < reader->length + length + 1) capacity *= 2;
        reader->bytes = realloc(reader->bytes, capacity);
        if (!reader->bytes) abort();
        reader->capacity = capacity;
    }
    memcpy(reader->bytes + reader->length, bytes, length);
    reader->length += length;
    reader->bytes[reader->length] = 0;
}

static void blame(struct reader *reader, const char *why) {
    if (!reader->is_bad) reader->why = why;
    reader->is_bad = true;
}

void begin_reading(struct reader *reader) {
    char *bytes = reader->bytes;
    size_t capacity = reader->capacity;
    if (capacity > 1048576) {
        free(bytes);
        bytes = NULL;
        capacity = 0;
    }
    *reader = (struct reader){.bytes = bytes, .capacity = capacity, .place = IN_HEAD, .is_kept = true};
}

/* ---- what the body says ---- */

static bool holds(const char *bytes, size_t length, const char *text) {
    return memmem(bytes, length, text, strlen(text)) != NULL;
}

static void look_for_banned(struct reader *reader, const struct expectation *expectation, const char *bytes,
                            size_t length) {
    for (size_t i = 0; i < expectation->banned_count; i++)
        if (holds(bytes, length, expectation->banned[i])) blame(reader, "banned text");
}

static void add_tokens(struct reader *reader, const char *bytes, size_t length) {
    static const char field[] = "\"completion_tokens\":";
    const char *found = memmem(bytes, length, field, sizeof field - 1);
    if (found) reader->tokens += strtoull(found + sizeof field - 1, NULL, 10);
}

static void check_event(struct reader *reader, const struct expectation *expectation, const char *event,
                        size_t length) {
    static const char content[] = "\"delta\":{\"content\":\"", reason[] = "\"finish_reason\":\"";
    if (reader->is_done) blame(reader, "event after [DONE]");
    look_for_banned(reader, expectation, event, length);
    if (length < 6 || memcmp(event, "data: ", 6) != 0) {
        if (length == 0 || event[0] != ':') blame(reader, "not an event");
        return;
    }
    if (length == 12 && memcmp(event + 6, "[DONE]", 6) == 0) {
        reader->is_done = true;
        return;
    }
    if (holds(event, length < 16 ? length : 16, "\"error\"")) blame(reader, "error event");
    const char *found = memmem(event, length, content, sizeof content - 1);
    if (found) {
        char piece[32];
        int wanted = snprintf(piece, sizeof piece, " w%llu\"", (unsigned long long)reader->chunks++);
        const char *text = found + sizeof content - 1;
        bool is_next = event + length - text >= wanted && memcmp(text, piece, (size_t)wanted) == 0;
        if (expectation->chunks >= 0 && !is_next) blame(reader, "content out of order");
        return;
    }
    if (holds(event, length, reason)) reader->is_finished = true;
    add_tokens(reader, event, length);
}

static void check_events(struct reader *reader, const struct expectation *expectation) {
    size_t at = 0;
    for (;;) {
        const char *end = memmem(reader->bytes + at, reader->length - at, "\n\n", 2);
        if (!end) break;
        check_event(reader, expectation, reader->bytes + at, (size_t)(end - reader->bytes) - at);
        at = (size_t)(end - reader->bytes) + 2;
    }
    if (!at) return;
    reader->length -= at;
    memmove(reader->bytes, reader->bytes + at, reader->length + 1);
}

bool is_good(struct reader *reader, const struct expectation *expectation) {
    if (expectation->status && reader->status != expectation->status) blame(reader, "status");
    if (reader->is_stream) {
        if (reader->length) blame(reader, "half an event at the end");
        if (!reader->is_done) blame(reader, "no [DONE]");
        if (!reader->is_finished) blame(reader, "no finish_reason");
        if (expectation->chunks >= 0 && reader->chunks != (uint64_t)expectation->chunks) blame(reader, "chunk count");
        return !reader->is_bad;
    }
    if (reader->length) {
        look_for_banned(reader, expectation, reader->bytes, reader->length);
        add_tokens(reader, reader->bytes, reader->length);
    }
    for (size_t i = 0; i < expectation->wanted_count; i++)
        if (!reader->length || !holds(reader->bytes, reader->length, expectation->wanted[i]))
            blame(reader, "wanted text is missing");
    return !reader->is_bad;
}

/* ---- HTTP ---- */

static void take_body(struct reader *reader, const struct expectation *expectation, const char *bytes, size_t length) {
    reader->body_bytes += length;
    if (reader->length + length > BODY_MAX) {
        blame(reader, "body is too large");
        return;
    }
    keep(reader, bytes, length);
    if (reader->is_stream) check_events(reader, expectation);
}

static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0) return line + 2 + length + strspn(line + 2 + length, " ");
    return NULL;
}

/* The head is whole in `bytes` (ended by a zero). */
static bool parse_head(struct reader *reader) {
    if (sscanf(reader->bytes, "HTTP/1.1 %3d", &reader->status) != 1) return false;
    const char *type = header(reader->bytes, "content-type:"), *length = header(reader->bytes, "content-length:");
    const char *coding = header(reader->bytes, "transfer-encoding:"), *kept = header(reader->bytes, "connection:");
    reader->is_stream = type && strncasecmp(type, "text/event-stream", 17) == 0;
    reader->is_kept = !(kept && strncasecmp(kept, "close", 5) == 0);
    reader->length = 0;
    if (reader->bytes) reader->bytes[0] = 0;
    if (coding && strncasecmp(coding, "chunked", 7) == 0) {
        reader->place = IN_CHUNK_SIZE;
        return true;
    }
    if (!length && reader->status != 204) return false;
    reader->left = length ? strtoull(length, NULL, 10) : 0;
    reader->place = reader->left ? IN_LENGTH : COMPLETE;
    return true;
}

static long take_head(struct reader *reader, const char *bytes, size_t length) {
    size_t before = reader->length, from = before > 3 ? before - 3 : 0;
    keep(reader, bytes, length);
    char *end = memmem(reader->bytes + from, reader->length - from, "\r\n\r\n", 4);
    if (!end) return reader->length > HEAD_MAX ? -1 : (long)length;
    size_t used = (size_t)(end - reader->bytes) + 4 - before;
    end[2] = 0;
    return parse_head(reader) ? (long)used : -1;
}

static long take_chunk_line(struct reader *reader, const char *bytes, size_t length) {
    const char *end = memchr(bytes, '\n', length);
    size_t used = end ? (size_t)(end - bytes) + 1 : length;
    for (size_t i = 0; reader->place == IN_CHUNK_SIZE && i < used; i++) {
        char c = bytes[i], low = (char)(c | 32);
        if (c >= '0' && c <= '9') reader->left = reader->left * 16 + (uint64_t)(c - '0');
        else if (low >= 'a' && low <= 'f') reader->left = reader->left * 16 + (uint64_t)(low - 'a' + 10);
        else if (c != '\r' && c != '\n') return -1;
    }
    if (!end) return (long)used;
    if (reader->place == IN_CHUNK_SIZE) reader->place = reader->left ? IN_CHUNK : IN_TRAILER;
    else if (reader->place == IN_CHUNK_END) reader->place = IN_CHUNK_SIZE;
    else reader->place = COMPLETE; /* IN_TRAILER: the empty line; trailers are not spoken here */
    return (long)used;
}

static long take_some(struct reader *reader, const struct expectation *expectation, const char *bytes, size_t length) {
    if (reader->place == IN_HEAD) return take_head(reader, bytes, length);
    if (reader->place != IN_LENGTH && reader->place != IN_CHUNK) return take_chunk_line(reader, bytes, length);
    size_t used = length < reader->left ? length : (size_t)reader->left;
    take_body(reader, expectation, bytes, used);
    reader->left -= used;
    if (!reader->left) reader->place = reader->place == IN_CHUNK ? IN_CHUNK_END : COMPLETE;
    return (long)used;
}

long read_answer(struct reader *reader, const struct expectation *expectation, const char *bytes, size_t length) {
    size_t at = 0;
    while (at < length && reader->place != COMPLETE) {
        long used = take_some(reader, expectation, bytes + at, length - at);
        if (used < 0) return -1;
        at += (size_t)used;
    }
    return (long)at;
}
