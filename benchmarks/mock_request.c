/* Reading requests. See mock_request.h. */
#define _GNU_SOURCE
#include "mock_request.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool starts_with(const char *line, size_t length, const char *name) {
    size_t wanted = strlen(name);
    return length >= wanted && strncasecmp(line, name, wanted) == 0;
}

static bool contains(const char *line, size_t length, const char *word) {
    size_t wanted = strlen(word);
    for (size_t i = 0; i + wanted <= length; i++)
        if (strncasecmp(line + i, word, wanted) == 0) return true;
    return false;
}

static size_t value_start(const char *line, size_t length) {
    size_t at = 0;
    while (at < length && line[at] != ':') at++;
    if (at < length) at++;
    while (at < length && line[at] == ' ') at++;
    return at;
}

static bool read_length(struct request *request, const char *digits, size_t length) {
    size_t value = 0;
    if (length == 0 || length > 12) return false;
    for (size_t i = 0; i < length; i++) {
        if (digits[i] < '0' || digits[i] > '9') return false;
        value = value * 10 + (size_t)(digits[i] - '0');
    }
    request->body_length = value;
    return value <= BODY_MAX;
}

static bool read_header(struct request *request, struct wishes *wishes, const char *line, size_t length) {
    size_t value = value_start(line, length);
    if (starts_with(line, length, "content-length:")) return read_length(request, line + value, length - value);
    if (starts_with(line, length, "transfer-encoding:")) request->is_chunked = contains(line, length, "chunked");
    if (starts_with(line, length, "connection:") && contains(line, length, "close")) request->is_kept = false;
    if (starts_with(line, length, "expect:")) request->wants_continue = true;
    if (starts_with(line, length, "x-mock:")) read_wishes(wishes, line + value, length - value);
    return true;
}

static bool read_request_line(struct request *request, const char *line, size_t length) {
    request->is_post = starts_with(line, length, "POST ");
    if (!request->is_post && !starts_with(line, length, "GET ")) return false;
    const char *path = line + (request->is_post ? 5 : 4);
    const char *end = memchr(path, ' ', (size_t)(line + length - path));
    if (!end || (size_t)(end - path) >= sizeof request->path) return false;
    memcpy(request->path, path, (size_t)(end - path));
    request->path[end - path] = 0;
    return true;
}

static int read_head(struct request *request, const struct buffer *in, struct wishes *wishes) {
    const char *end = memmem(in->bytes, in->length, "\r\n\r\n", 4);
    if (!end) return in->length > HEAD_MAX ? -1 : 0;
    *request = (struct request){.is_kept = true};
    const char *line = in->bytes, *line_end = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
    if (!read_request_line(request, line, (size_t)(line_end - line))) return -1;
    for (line = line_end + 2; line < end; line = line_end + 2) {
        line_end = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if (!read_header(request, wishes, line, (size_t)(line_end - line))) return -1;
    }
    request->head_length = request->chunk_at = (size_t)(end + 4 - in->bytes);
    if (request->is_chunked) request->body_length = 0;
    request->has_head = true;
    return 1;
}

/* Joins the chunks in place, behind the head. */
static int read_chunks(struct request *request, const struct buffer *in) {
    char *bytes = in->bytes;
    for (;;) {
        size_t left = in->length - request->chunk_at, body_end = request->head_length + request->body_length;
        char *line = bytes + request->chunk_at, *line_end = memmem(line, left, "\r\n", 2), *digits_end;
        if (!line_end) return left > 1024 ? -1 : 0;
        unsigned long long size = strtoull(line, &digits_end, 16);
        if (digits_end == line || digits_end > line_end || size > BODY_MAX - request->body_length) return -1;
        size_t start = (size_t)(line_end - bytes) + 2;
        if (in->length < start + size + 2) return 0;
        if (memcmp(bytes + start + size, "\r\n", 2) != 0) return -1; /* trailers are not spoken here */
        memmove(bytes + body_end, bytes + start, size);
        request->body_length += size;
        request->chunk_at = start + size + 2;
        if (size) continue;
        request->consumed = request->chunk_at;
        return 1;
    }
}

int read_whole(struct request *request, struct buffer *in, struct wishes *wishes) {
    if (!request->has_head) {
        int got = read_head(request, in, wishes);
        if (got <= 0) return got;
    }
    if (request->is_chunked) return read_chunks(request, in);
    if (in->length < request->head_length + request->body_length) return 0;
    request->consumed = request->head_length + request->body_length;
    return 1;
}
