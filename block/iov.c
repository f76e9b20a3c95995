/* I/O vectors. */
#include "block/iov.h"
#include <glib.h>
#include <string.h>

uint64_t iov_size(const struct iovec *iov, int iovcnt)
{
    uint64_t total = 0;

    for (int i = 0; i < iovcnt; i++)
        total += iov[i].iov_len;
    return total;
}

/* One step of a walk: the piece of iov[*i] at *offset, at most @bytes long. */
static size_t next_piece(const struct iovec *iov, int iovcnt, int *i, uint64_t *offset,
                         uint64_t bytes, char **ret)
{
    size_t n;

    while (*i < iovcnt && *offset >= iov[*i].iov_len)
        *offset -= iov[(*i)++].iov_len;
    if (*i == iovcnt)
        return 0;
    n = MIN(iov[*i].iov_len - *offset, bytes);
    *ret = (char *)iov[*i].iov_base + *offset;
    *offset += n;
    return n;
}

void iov_from_buffer(const struct iovec *iov, int iovcnt, uint64_t offset, const void *buffer,
                     uint64_t bytes)
{
    const char *from = buffer;
    char *to;
    size_t n;
    int i = 0;

    for (; (n = next_piece(iov, iovcnt, &i, &offset, bytes, &to)); from += n, bytes -= n)
        memcpy(to, from, n);
}

void iov_to_buffer(const struct iovec *iov, int iovcnt, uint64_t offset, void *buffer,
                   uint64_t bytes)
{
    char *to = buffer, *from;
    size_t n;
    int i = 0;

    for (; (n = next_piece(iov, iovcnt, &i, &offset, bytes, &from)); to += n, bytes -= n)
        memcpy(to, from, n);
}

void iov_zero(const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t bytes)
{
    char *to;
    size_t n;
    int i = 0;

    for (; (n = next_piece(iov, iovcnt, &i, &offset, bytes, &to)); bytes -= n)
        memset(to, 0, n);
}

int iov_slice(struct iovec *part, int max, const struct iovec *iov, int iovcnt, uint64_t offset,
              uint64_t *bytes)
{
    uint64_t left = *bytes;
    int parts = 0, i = 0;
    char *base;
    size_t n;

    while (parts < max && (n = next_piece(iov, iovcnt, &i, &offset, left, &base))) {
        part[parts++] = (struct iovec){ base, n };
        left -= n;
    }
    *bytes -= left;
    return parts;
}

/* Most data differs from zero in its first words; what does not is compared with itself, shifted. */
static bool buffer_is_zero(const char *buffer, size_t length)
{
    size_t head = MIN(length, 16);

    for (size_t i = 0; i < head; i++)
        if (buffer[i])
            return false;
    return length <= 16 || !memcmp(buffer, buffer + 16, length - 16);
}

bool iov_is_zero(const struct iovec *iov, int iovcnt, uint64_t bytes)
{
    uint64_t offset = 0;
    char *base;
    size_t n;
    int i = 0;

    for (; (n = next_piece(iov, iovcnt, &i, &offset, bytes, &base)); bytes -= n)
        if (!buffer_is_zero(base, n))
            return false;
    return true;
}
