/*
 * What a mock request asks for, and the answer that it gets, piece by piece.
 *
 * The texts follow llama.cpp's server: one HTTP chunk per result of a slot (the role event travels with the first
 * content event, the usage event with the finish event), counts inside `timings`, one usage event per choice.
 * Everything is deterministic: the same request number and the same wishes give the same bytes.
 */
#ifndef MOCK_ANSWER_H
#define MOCK_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAYLOAD_MAX = 4096, MODEL_MAX = 128, TAG_MAX = 64, CHOICES_MAX = 64 };

/* A byte buffer that grows; `append_*` abort the program when memory is out. */
struct buffer {
    char *bytes;
    size_t length, capacity;
};

void buffer_reserve(struct buffer *buffer, size_t extra);
void append_bytes(struct buffer *buffer, const char *bytes, size_t length);
void append_text(struct buffer *buffer, const char *text);
void append_number(struct buffer *buffer, uint64_t number);

/* What the command line, the `x-mock` header and `mock:` inside the body ask for. -1 means "never". */
struct wishes {
    int64_t chunks;      /* content chunks per choice */
    int64_t pace_ms;     /* between content chunks; 0 is a burst */
    int64_t prefill_ms;  /* before the first content chunk */
    int64_t progress;    /* prompt progress chunks per choice, when return_progress is on */
    int64_t step;        /* tokens per content chunk */
    int64_t prompt;      /* prompt tokens, cached ones included */
    int64_t cached;      /* cached prompt tokens */
    int64_t die;         /* close the connection after so many content chunks */
    int64_t hang;        /* send nothing more after so many content chunks */
    int64_t error;       /* an error event after so many content chunks */
    int64_t mute;        /* 1: never answer at all */
    int64_t status;      /* 0, or an error status to answer with */
    int64_t coalesce;    /* 1: several chunks may share one write */
    bool stops;          /* finish=stop: the end token is counted, as llama.cpp does */
    char tag[TAG_MAX];   /* named in the truth */
};

/* One request and how far its answer has come. */
struct answer {
    struct wishes wishes;
    bool stream, include_usage, timings_per_token, return_progress;
    int64_t choices;
    char model[MODEL_MAX];
    char tail[MODEL_MAX + 160];
    size_t tail_length;
    uint64_t number;
    /* progress of the stream */
    int64_t progress_sent, round, choice, chunks_sent, finishes_sent;
    bool is_finish_due, is_done_sent, is_over;
};

enum step_kind { STEP_PROGRESS, STEP_CONTENT, STEP_FINISH, STEP_DONE, STEP_ERROR, STEP_OVER };

/* Read `key=value,...` into wishes; unknown keys are ignored, numbers are clamped to what is sane. */
void read_wishes(struct wishes *wishes, const char *text, size_t length);

/* Read the fields of a chat request that matter here; `wishes` must hold the defaults. */
void read_request(struct answer *answer, const char *body, size_t length);

/* Get ready to render the answer of request `number`. */
void begin_answer(struct answer *answer, uint64_t number);

/* The kind of the next part of a stream, without making it. */
enum step_kind next_step(const struct answer *answer);

/* Append the next HTTP chunk (framing included) to `out` and move on. STEP_OVER appends the last chunk. */
enum step_kind render_step(struct answer *answer, struct buffer *out);

/* Append the head of a streamed answer. */
void render_stream_head(struct buffer *out);

/* Append a whole unstreamed answer, or an error answer when `status` is asked for. */
void render_plain(struct answer *answer, struct buffer *out);

/* Append any JSON answer. */
void render_json(struct buffer *out, int status, const char *body, size_t length);

/* Output tokens so far (whole answer: all of them), as the engine counts them. */
uint64_t tokens_so_far(const struct answer *answer);
uint64_t tokens_in_full(const struct answer *answer);

#endif
