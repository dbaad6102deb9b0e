/* Rendering of llama.cpp's answers. See mock_answer.h. */
#define _GNU_SOURCE
#include "mock_answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char CREATED[] = "1700000000";

void buffer_reserve(struct buffer *buffer, size_t extra) {
    if (buffer->length + extra <= buffer->capacity) return;
    size_t capacity = buffer->capacity ? buffer->capacity : 2048;
    while (capacity < buffer->length + extra) capacity *= 2;
    char *bytes = realloc(buffer->bytes, capacity);
    if (!bytes) {
        fprintf(stderr, "mock_upstream: out of memory\n");
        exit(1);
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
}

void append_bytes(struct buffer *buffer, const char *bytes, size_t length) {
    buffer_reserve(buffer, length);
    memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
}

void append_text(struct buffer *buffer, const char *text) { append_bytes(buffer, text, strlen(text)); }

void append_number(struct buffer *buffer, uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    append_bytes(buffer, digits + at, sizeof digits - at);
}

/* Milliseconds given in microseconds, written as 12.034. */
static void append_ms(struct buffer *buffer, uint64_t microseconds) {
    uint64_t rest = microseconds % 1000;
    append_number(buffer, microseconds / 1000);
    char tail[4] = {'.', (char)('0' + rest / 100), (char)('0' + rest / 10 % 10), (char)('0' + rest % 10)};
    append_bytes(buffer, tail, sizeof tail);
}

/* ---- wishes ---- */

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

static bool is_name(const char *key, size_t length, const char *name) {
    return strlen(name) == length && memcmp(key, name, length) == 0;
}

static void set_wish(struct wishes *wishes, const char *key, size_t key_length, const char *value, size_t length) {
    if (is_name(key, key_length, "tag")) {
        size_t kept = length < TAG_MAX - 1 ? length : TAG_MAX - 1;
        memcpy(wishes->tag, value, kept);
        wishes->tag[kept] = 0;
        return;
    }
    if (is_name(key, key_length, "finish")) {
        wishes->stops = is_name(value, length, "stop");
        return;
    }
    struct { const char *name; int64_t *to, low, high; } numbers[] = {
        {"chunks", &wishes->chunks, 0, 1000000},   {"pace", &wishes->pace_ms, 0, 3600000},
        {"prefill", &wishes->prefill_ms, 0, 3600000}, {"progress", &wishes->progress, 0, 1000},
        {"step", &wishes->step, 1, 1000},          {"prompt", &wishes->prompt, 0, 1000000000},
        {"cached", &wishes->cached, 0, 1000000000}, {"die", &wishes->die, -1, 1000000000},
        {"hang", &wishes->hang, -1, 1000000000},   {"error", &wishes->error, -1, 1000000000},
        {"mute", &wishes->mute, 0, 1},             {"status", &wishes->status, 0, 599},
        {"coalesce", &wishes->coalesce, 0, 1},
    };
    char text[24] = {0};
    memcpy(text, value, length < sizeof text - 1 ? length : sizeof text - 1);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (is_name(key, key_length, numbers[i].name))
            *numbers[i].to = clamp(strtoll(text, NULL, 10), numbers[i].low, numbers[i].high);
}

static bool is_wish_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

void read_wishes(struct wishes *wishes, const char *text, size_t length) {
    size_t at = 0;
    while (at < length) {
        size_t key = at;
        while (at < length && is_wish_letter(text[at])) at++;
        if (at == key || at == length || text[at] != '=') return;
        size_t value = at + 1;
        for (at = value; at < length && is_wish_letter(text[at]);) at++;
        set_wish(wishes, text + key, value - 1 - key, text + value, at - value);
        if (at == length || text[at] != ',') return;
        at++;
    }
}

/* ---- the request ---- */

static size_t skip_space(const char *body, size_t at, size_t length) {
    while (at < length && (body[at] == ' ' || body[at] == '\t' || body[at] == '\r' || body[at] == '\n')) at++;
    return at;
}

/* `at` stands behind an opening quote; returns the place of the closing one (or `length`). */
static size_t end_of_string(const char *body, size_t at, size_t length) {
    while (at < length && body[at] != '"') at += body[at] == '\\' ? 2 : 1;
    return at < length ? at : length;
}

static void set_field(struct answer *answer, int depth, const char *key, size_t key_length, const char *value,
                      size_t length) {
    bool is_true = length >= 4 && memcmp(value, "true", 4) == 0;
    if (depth == 2 && is_name(key, key_length, "include_usage")) answer->include_usage = is_true;
    if (depth != 1) return;
    if (is_name(key, key_length, "stream")) answer->stream = is_true;
    if (is_name(key, key_length, "timings_per_token")) answer->timings_per_token = is_true;
    if (is_name(key, key_length, "return_progress")) answer->return_progress = is_true;
    if (is_name(key, key_length, "n") && length && value[0] >= '0' && value[0] <= '9') {
        int64_t choices = 0;
        for (size_t i = 0; i < length && i < 4 && value[i] >= '0' && value[i] <= '9'; i++)
            choices = choices * 10 + (value[i] - '0');
        answer->choices = clamp(choices, 1, CHOICES_MAX);
    }
    if (is_name(key, key_length, "model") && length && value[0] == '"') {
        size_t end = end_of_string(value, 1, length);
        size_t kept = end - 1 < MODEL_MAX - 1 ? end - 1 : MODEL_MAX - 1;
        memcpy(answer->model, value + 1, kept);
        answer->model[kept] = 0;
    }
}

static void read_fields(struct answer *answer, const char *body, size_t length) {
    int depth = 0;
    for (size_t at = 0; at < length; at++) {
        if (body[at] == '{' || body[at] == '[') depth++;
        if (body[at] == '}' || body[at] == ']') depth--;
        if (body[at] != '"') continue;
        size_t start = at + 1;
        at = end_of_string(body, start, length);
        if (depth > 2 || at == length) continue;
        size_t colon = skip_space(body, at + 1, length);
        if (colon == length || body[colon] != ':') continue;
        size_t value = skip_space(body, colon + 1, length);
        set_field(answer, depth, body + start, at - start, body + value, length - value);
        at = value - 1;
    }
}

void read_request(struct answer *answer, const char *body, size_t length) {
    answer->choices = 1;
    memcpy(answer->model, "smollm2-135m-instruct", sizeof "smollm2-135m-instruct");
    read_fields(answer, body, length);
    const char *last = NULL;
    for (const char *from = body; from < body + length;) {
        const char *found = memmem(from, (size_t)(body + length - from), "mock:", 5);
        if (!found) break;
        last = from = found + 5;
    }
    if (last) read_wishes(&answer->wishes, last, (size_t)(body + length - last));
    if (answer->wishes.cached > answer->wishes.prompt) answer->wishes.cached = answer->wishes.prompt;
}

/* ---- the stream ---- */

void begin_answer(struct answer *answer, uint64_t number) {
    answer->number = number;
    answer->progress_sent = answer->round = answer->choice = 0;
    answer->chunks_sent = answer->finishes_sent = 0;
    answer->is_finish_due = answer->wishes.chunks == 0;
    answer->is_done_sent = answer->is_over = false;
    int written = snprintf(answer->tail, sizeof answer->tail,
                           "\"created\":%s,\"id\":\"chatcmpl-%032llx\",\"model\":\"%s\","
                           "\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\"",
                           CREATED, (unsigned long long)number, answer->model);
    answer->tail_length = (size_t)written;
}

uint64_t tokens_so_far(const struct answer *answer) {
    int64_t ends = answer->wishes.stops ? answer->finishes_sent : 0;
    return (uint64_t)(answer->chunks_sent * answer->wishes.step + ends);
}

/* Of one choice, at its end. */
static int64_t completion_tokens(const struct answer *answer) {
    return answer->wishes.chunks * answer->wishes.step + (answer->wishes.stops ? 1 : 0);
}

uint64_t tokens_in_full(const struct answer *answer) {
    return (uint64_t)(completion_tokens(answer) * answer->choices);
}

/* Speeds are constants: 4.838 ms per prompt token, 16.551 ms per token. */
static void append_timings(struct buffer *out, const struct answer *answer, int64_t prompt, int64_t predicted) {
    append_text(out, ",\"timings\":{\"cache_n\":");
    append_number(out, (uint64_t)answer->wishes.cached);
    append_text(out, ",\"prompt_n\":");
    append_number(out, (uint64_t)prompt);
    append_text(out, ",\"prompt_ms\":");
    append_ms(out, (uint64_t)prompt * 4838);
    append_text(out, ",\"prompt_per_token_ms\":4.838483870967742,\"prompt_per_second\":206.6763115612062,\"predicted_n\":");
    append_number(out, (uint64_t)predicted);
    append_text(out, ",\"predicted_ms\":");
    append_ms(out, (uint64_t)predicted * 16551);
    append_text(out, predicted ? ",\"predicted_per_token_ms\":16.551333333333333,\"predicted_per_second\":60.41748482010694}"
                               : ",\"predicted_per_token_ms\":0.0,\"predicted_per_second\":0.0}");
}

static void append_event_start(struct buffer *out, const char *finish_reason, int64_t choice, const char *delta) {
    append_text(out, "data: {\"choices\":[{\"finish_reason\":");
    append_text(out, finish_reason);
    append_text(out, ",\"index\":");
    append_number(out, (uint64_t)choice);
    append_text(out, ",\"delta\":");
    append_text(out, delta);
    append_text(out, "}],");
}

static void append_tail(struct buffer *out, const struct answer *answer) {
    append_bytes(out, answer->tail, answer->tail_length);
}

static void append_role(struct buffer *out, const struct answer *answer, int64_t choice) {
    append_event_start(out, "null", choice, "{\"role\":\"assistant\",\"content\":null}");
    append_tail(out, answer);
}

static void append_progress(struct buffer *out, const struct answer *answer, int64_t part, int64_t choice) {
    int64_t fresh = answer->wishes.prompt - answer->wishes.cached;
    int64_t processed = fresh * (part + 1) / answer->wishes.progress;
    append_role(out, answer, choice);
    append_timings(out, answer, processed, 0);
    append_text(out, ",\"prompt_progress\":{\"total\":");
    append_number(out, (uint64_t)answer->wishes.prompt);
    append_text(out, ",\"cache\":");
    append_number(out, (uint64_t)answer->wishes.cached);
    append_text(out, ",\"processed\":");
    append_number(out, (uint64_t)(answer->wishes.cached + processed));
    append_text(out, ",\"time_ms\":");
    append_number(out, (uint64_t)(processed * 4838 / 1000));
    append_text(out, "}}\n\n");
}

static void append_content(struct buffer *out, const struct answer *answer) {
    if (answer->round == 0) {
        append_role(out, answer, answer->choice);
        append_text(out, "}\n\n");
    }
    append_text(out, "data: {\"choices\":[{\"finish_reason\":null,\"index\":");
    append_number(out, (uint64_t)answer->choice);
    append_text(out, ",\"delta\":{\"content\":\" w");
    append_number(out, (uint64_t)answer->round);
    append_text(out, "\"}}],");
    append_tail(out, answer);
    if (answer->timings_per_token)
        append_timings(out, answer, answer->wishes.prompt - answer->wishes.cached,
                       (answer->round + 1) * answer->wishes.step);
    append_text(out, "}\n\n");
}

static void append_usage(struct buffer *out, const struct answer *answer, int64_t completion) {
    append_text(out, "\"usage\":{\"completion_tokens\":");
    append_number(out, (uint64_t)completion);
    append_text(out, ",\"prompt_tokens\":");
    append_number(out, (uint64_t)answer->wishes.prompt);
    append_text(out, ",\"total_tokens\":");
    append_number(out, (uint64_t)(answer->wishes.prompt + completion));
    append_text(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    append_number(out, (uint64_t)answer->wishes.cached);
    append_text(out, "}}");
}

static void append_finish(struct buffer *out, const struct answer *answer) {
    int64_t fresh = answer->wishes.prompt - answer->wishes.cached;
    if (answer->wishes.chunks == 0) {
        append_role(out, answer, answer->choice);
        append_text(out, "}\n\n");
    }
    append_event_start(out, answer->wishes.stops ? "\"stop\"" : "\"length\"", answer->choice, "{}");
    append_tail(out, answer);
    if (answer->include_usage) {
        append_text(out, "}\n\ndata: {\"choices\":[],");
        append_tail(out, answer);
        append_text(out, ",");
        append_usage(out, answer, completion_tokens(answer));
    }
    append_timings(out, answer, fresh, completion_tokens(answer));
    append_text(out, "}\n\n");
}

enum step_kind next_step(const struct answer *answer) {
    int64_t progress = answer->return_progress ? answer->wishes.progress * answer->choices : 0;
    if (answer->is_over || answer->is_done_sent) return STEP_OVER;
    if (answer->progress_sent < progress) return STEP_PROGRESS;
    if (answer->wishes.error >= 0 && answer->chunks_sent >= answer->wishes.error) return STEP_ERROR;
    if (answer->choice == answer->choices) return STEP_DONE;
    return answer->is_finish_due ? STEP_FINISH : STEP_CONTENT;
}

/* Choices take turns; one that has its last chunk gets its finish at once. */
static void advance(struct answer *answer, enum step_kind kind) {
    if (kind == STEP_CONTENT) {
        answer->chunks_sent++;
        if (answer->round + 1 == answer->wishes.chunks) {
            answer->is_finish_due = true;
            return;
        }
    }
    answer->choice++;
    bool has_more_rounds = kind == STEP_CONTENT;
    if (answer->choice == answer->choices && has_more_rounds) {
        answer->choice = 0;
        answer->round++;
    }
    if (answer->wishes.chunks > 0) answer->is_finish_due = false;
}

enum step_kind render_step(struct answer *answer, struct buffer *out) {
    static struct buffer payload;
    enum step_kind kind = next_step(answer);
    if (kind == STEP_OVER) {
        append_text(out, "0\r\n\r\n");
        answer->is_over = true;
        return kind;
    }
    payload.length = 0;
    if (kind == STEP_PROGRESS) {
        append_progress(&payload, answer, answer->progress_sent / answer->choices,
                        answer->progress_sent % answer->choices);
        answer->progress_sent++;
    } else if (kind == STEP_CONTENT) {
        append_content(&payload, answer);
        advance(answer, kind);
    } else if (kind == STEP_FINISH) {
        append_finish(&payload, answer);
        answer->finishes_sent++;
        advance(answer, kind);
    } else if (kind == STEP_ERROR) {
        append_text(&payload, "data: {\"error\":{\"code\":500,\"message\":\"mock error\",\"type\":\"server_error\"}}\n\n");
        answer->is_done_sent = true;
    } else {
        append_text(&payload, "data: [DONE]\n\n");
        answer->is_done_sent = true;
    }
    char size[16];
    int digits = snprintf(size, sizeof size, "%zx\r\n", payload.length);
    append_bytes(out, size, (size_t)digits);
    append_bytes(out, payload.bytes, payload.length);
    append_bytes(out, "\r\n", 2);
    return kind;
}

void render_stream_head(struct buffer *out) {
    append_text(out, "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n"
                     "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
}

/* ---- answers in one piece ---- */

static const char *reason_of(int status) {
    switch (status) {
        case 200: return "OK";
        case 400: return "Bad Request";
        case 401: return "Unauthorized";
        case 404: return "Not Found";
        case 413: return "Payload Too Large";
        case 503: return "Service Unavailable";
        default: return status < 500 ? "Client Error" : "Internal Server Error";
    }
}

void render_json(struct buffer *out, int status, const char *body, size_t length) {
    char head[256];
    int written = snprintf(head, sizeof head,
                           "HTTP/1.1 %d %s\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
                           "Content-Type: application/json; charset=utf-8\r\nContent-Length: %zu\r\n\r\n",
                           status, reason_of(status), length);
    append_bytes(out, head, (size_t)written);
    append_bytes(out, body, length);
}

void render_plain(struct answer *answer, struct buffer *out) {
    struct buffer body = {0};
    if (answer->wishes.status) {
        append_text(&body, "{\"error\":{\"code\":");
        append_number(&body, (uint64_t)answer->wishes.status);
        append_text(&body, ",\"message\":\"mock error\",\"type\":\"server_error\"}}");
    } else {
        append_text(&body, "{\"choices\":[");
        for (int64_t choice = 0; choice < answer->choices; choice++) {
            append_text(&body, choice ? ",{\"finish_reason\":\"" : "{\"finish_reason\":\"");
            append_text(&body, answer->wishes.stops ? "stop\",\"index\":" : "length\",\"index\":");
            append_number(&body, (uint64_t)choice);
            append_text(&body, ",\"message\":{\"role\":\"assistant\",\"content\":\"");
            for (int64_t i = 0; i < answer->wishes.chunks; i++) {
                append_bytes(&body, " w", 2);
                append_number(&body, (uint64_t)i);
            }
            append_text(&body, "\"}}");
        }
        char id[64];
        snprintf(id, sizeof id, ",\"id\":\"chatcmpl-%032llx\"", (unsigned long long)answer->number);
        append_text(&body, "],\"created\":");
        append_text(&body, CREATED);
        append_text(&body, ",\"model\":\"");
        append_text(&body, answer->model);
        append_text(&body, "\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion\",");
        append_usage(&body, answer, completion_tokens(answer) * answer->choices);
        append_text(&body, id);
        append_timings(&body, answer, answer->wishes.prompt - answer->wishes.cached, completion_tokens(answer));
        append_text(&body, "}");
    }
    render_json(out, answer->wishes.status ? (int)answer->wishes.status : 200, body.bytes, body.length);
    free(body.bytes);
}
