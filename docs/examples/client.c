/* SPDX-License-Identifier: Apache-2.0
 *
 * A client of `epcgroup up` in C: enclave memory that is paged when it goes over the group's EPC limit.
 *
 *     cc -O2 -Wall -o client docs/examples/client.c
 *     epcgroup exec --epc 1Mi -- ./client 4        (MiB, default 4)
 *
 * It writes to every page, reads them all back, and closes. Exit status 0: all was as written; 1: not; 2: refused.
 * The protocol is described in docs/reference/live-protocol.md. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CREATE = 1, ATTACH = 2, CLOSE = 3 };
enum { PAGE = 4096, MAX_FDS = 4, NEW_USERFAULTFD = 0xAA00 }; /* USERFAULTFD_IOC_NEW of linux/userfaultfd.h */

struct packet {
    uint32_t op, errnum;
    uint64_t a, b;
};

struct enclave {
    int daemon, userfaultfd, lifeline;
    uint8_t *memory;
    size_t length;
};

/* Sends a request, with a descriptor when `fd` is not -1, and waits for its answer. 0, or -1 with errno: the daemon's
 * refusal, or what became of the connection. Descriptors that come along are the caller's. */
static int ask(int daemon, struct packet *packet, int fd, int fds[MAX_FDS])
{
    union {
        struct cmsghdr header; /* for its alignment */
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control;
    struct iovec vector = {packet, sizeof *packet};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct cmsghdr *rights;
    uint32_t op = packet->op;
    ssize_t n;

    memset(&control, 0, sizeof control);
    if (fd != -1) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof fd);
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    if (sendmsg(daemon, &message, MSG_NOSIGNAL) == -1)
        return -1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control;
    do
        n = recvmsg(daemon, &message, MSG_CMSG_CLOEXEC);
    while (n == -1 && errno == EINTR);
    if (n == -1)
        return -1;
    if (n != sizeof *packet || packet->op != op) {
        errno = ECONNRESET; /* 0 bytes: the daemon has hung up */
        return -1;
    }
    rights = CMSG_FIRSTHDR(&message);
    if (fds && rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS)
        memcpy(fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
    if (packet->errnum) {
        errno = (int)packet->errnum;
        return -1;
    }
    return 0;
}

/* What was refused, with errno: this client has no way to go on. */
static _Noreturn void refused(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(2);
}

static struct enclave enclave_open(size_t size)
{
    struct enclave enclave;
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    struct packet packet = {.op = CREATE, .a = size};
    const char *directory = getenv("EPCGROUP_RUN");
    int fds[MAX_FDS]; /* file, /dev/userfaultfd, lifeline */

    snprintf(place.sun_path, sizeof place.sun_path, "%s/socket", directory && *directory ? directory : "/run/epcgroup");
    enclave.daemon = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (enclave.daemon == -1 || connect(enclave.daemon, (struct sockaddr *)&place, sizeof place) == -1)
        refused(place.sun_path);

    /* ENOMEM: the group's limit has no room for the enclave's own page. */
    if (ask(enclave.daemon, &packet, -1, fds) == -1)
        refused("create");
    enclave.length = packet.a;
    enclave.memory = mmap(NULL, enclave.length, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    if (enclave.memory == MAP_FAILED)
        refused("mmap");
    close(fds[0]);
    /* A forked child must not have the memory: the daemon would end the enclave. */
    if (madvise(enclave.memory, enclave.length, MADV_DONTFORK) == -1)
        refused("madvise");

    /* Stays open as long as the mapping: while it does, a fault waits for the daemon. Without it and without a daemon a
     * page that was paged out would read as zeros. */
    enclave.userfaultfd = ioctl(fds[1], NEW_USERFAULTFD, O_CLOEXEC | O_NONBLOCK);
    if (enclave.userfaultfd == -1)
        refused("userfaultfd");
    close(fds[1]);

    /* The lifeline hangs up with the daemon; then SIGBUS instead of faults that wait for ever. */
    enclave.lifeline = fds[2];
    if (fcntl(enclave.lifeline, F_SETOWN, getpid()) == -1 || fcntl(enclave.lifeline, F_SETSIG, SIGBUS) == -1 ||
        fcntl(enclave.lifeline, F_SETFL, O_ASYNC | O_NONBLOCK) == -1)
        refused("lifeline");

    packet = (struct packet){.op = ATTACH, .a = (uintptr_t)enclave.memory};
    if (ask(enclave.daemon, &packet, enclave.userfaultfd, NULL) == -1)
        refused("attach");
    return enclave;
}

static void enclave_close(struct enclave *enclave)
{
    struct packet packet = {.op = CLOSE};

    fcntl(enclave->lifeline, F_SETFL, O_NONBLOCK);
    if (ask(enclave->daemon, &packet, -1, NULL) == -1)
        refused("close");
    close(enclave->userfaultfd);
    munmap(enclave->memory, enclave->length);
    close(enclave->lifeline);
    close(enclave->daemon);
}

int main(int argc, char **argv)
{
    size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 4) << 20, pages = size / PAGE, right = 0;
    struct enclave enclave = enclave_open(size);
    volatile uint64_t *word = (volatile uint64_t *)enclave.memory; /* the first of each page has its number */

    for (size_t page = 0; page < pages; page++)
        word[page * (PAGE / 8)] = page + 1;
    for (size_t page = 0; page < pages; page++)
        right += word[page * (PAGE / 8)] == page + 1;
    printf("%zu of %zu pages are as written\n", right, pages);
    enclave_close(&enclave);
    return right != pages;
}
