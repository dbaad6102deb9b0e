/* Reading one HTTP/1.1 request out of a buffer that grows as bytes arrive. */
#ifndef MOCK_REQUEST_H
#define MOCK_REQUEST_H

#include "mock_answer.h"

enum { HEAD_MAX = 65536, BODY_MAX = 33554432 };

struct request {
    size_t head_length, body_length; /* the body, joined when it came in chunks, stands behind the head */
    size_t consumed;                 /* bytes of the buffer that this request took */
    bool is_post, is_chunked, is_kept, wants_continue;
    char path[256];
    /* while it is being read */
    bool has_head;
    size_t chunk_at;
};

/*
 * Go on reading. `wishes` must hold the defaults when a request begins (`has_head` is false); the header `x-mock`
 * changes them. Returns 1 with a whole request, 0 when more bytes must come, -1 when it is not a request.
 */
int read_whole(struct request *request, struct buffer *in, struct wishes *wishes);

#endif
