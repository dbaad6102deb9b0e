/* Reading and checking one HTTP answer, streamed or not, as its bytes arrive. */
#ifndef LOAD_ANSWER_H
#define LOAD_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WORDS_MAX = 8 };

/* What a good answer is. */
struct expectation {
    int status;                     /* 0: any */
    int64_t chunks;                 /* content events of a stream, in the mock's order; -1: any number, any text */
    const char *wanted[WORDS_MAX];  /* texts that an unstreamed body must hold */
    const char *banned[WORDS_MAX];  /* texts that no body and no event may hold */
    size_t wanted_count, banned_count;
};

struct reader {
    char *bytes; /* the head, then what is left of the body: an incomplete event, or the whole plain body */
    size_t length, capacity;
    enum { IN_HEAD, IN_LENGTH, IN_CHUNK_SIZE, IN_CHUNK, IN_CHUNK_END, IN_TRAILER, COMPLETE } place;
    uint64_t left; /* bytes of the body or of the chunk at hand */
    int status;
    bool is_stream, is_kept, is_done, is_finished, is_bad;
    const char *why; /* why it is bad */
    uint64_t chunks, tokens, body_bytes;
};

void begin_reading(struct reader *reader);

/* Take in bytes; returns how many were used (fewer than given only when the answer is complete), or -1: not HTTP. */
long read_answer(struct reader *reader, const struct expectation *expectation, const char *bytes, size_t length);

/* After COMPLETE: is it what was expected? Sets `why`. */
bool is_good(struct reader *reader, const struct expectation *expectation);

#endif
