/*
 * The client of the live bench: an enclave of so many pages at a daemon that speaks src/epcgroup/live/wire.py.
 *
 * Touches pages in one fixed random order, round and round, so that with fewer pages resident than there are, and any
 * policy that is not told, every touch is a fault. It checks each page's count. Commands on stdin, one answer each:
 *
 *   touch N        the next N pages of the order: "total_ns median_ns"
 *   around N       pages 0..N-1 of the order, once: "total_ns median_ns"
 *   attach N       connect, create, attach and close another enclave N times: "total_ns median_ns" of the first three
 *
 * usage: client DIRECTORY PAGES
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

enum { CREATE = 1, ATTACH, CLOSE };

struct header {
	uint32_t op, error;
	uint64_t a, b;
};

struct enclave {
	int socket, uffd, lifeline;
	uint64_t length;
	volatile uint64_t *memory;
};

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000UL + t.tv_nsec;
}

/* Sends a request with at most one descriptor; the answer's descriptors go to fds. */
static struct header ask(int socket, struct header h, int fd, int *fds)
{
	struct iovec text = {&h, sizeof(h)};
	char control[CMSG_SPACE(4 * sizeof(int))] = {0};
	struct msghdr m = {.msg_iov = &text, .msg_iovlen = 1};

	if (fd >= 0) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(sizeof(int));
		struct cmsghdr *rights = CMSG_FIRSTHDR(&m);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(int));
	}
	must(sendmsg(socket, &m, 0) == sizeof(h), "send");
	m.msg_control = control;
	m.msg_controllen = sizeof(control);
	must(recvmsg(socket, &m, MSG_CMSG_CLOEXEC) == sizeof(h), "receive");
	struct cmsghdr *rights = CMSG_FIRSTHDR(&m);
	if (rights && rights->cmsg_type == SCM_RIGHTS && fds)
		memcpy(fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
	must(h.error == 0, "the daemon's answer");
	return h;
}

static struct enclave enclave_new(const char *directory, uint64_t size)
{
	struct enclave e = {0};
	struct sockaddr_un name = {AF_UNIX, ""};
	int fds[4] = {-1, -1, -1, -1};

	snprintf(name.sun_path, sizeof(name.sun_path), "%s/socket", directory);
	e.socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	must(connect(e.socket, (struct sockaddr *)&name, sizeof(name)) == 0, "connect");
	e.length = ask(e.socket, (struct header){CREATE, 0, size, 0}, -1, fds).a;
	e.lifeline = fds[2];
	e.memory = mmap(NULL, e.length, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	must(e.memory != MAP_FAILED, "map");
	close(fds[0]);
	madvise((void *)e.memory, e.length, MADV_DONTFORK);
	e.uffd = ioctl(fds[1], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	must(e.uffd >= 0, "userfaultfd");
	close(fds[1]);
	fcntl(e.lifeline, F_SETOWN, getpid());
	fcntl(e.lifeline, F_SETSIG, SIGBUS);
	fcntl(e.lifeline, F_SETFL, O_ASYNC | O_NONBLOCK);
	ask(e.socket, (struct header){ATTACH, 0, (uint64_t)e.memory, 0}, e.uffd, NULL);
	return e;
}

static void enclave_close(struct enclave *e)
{
	fcntl(e->lifeline, F_SETFL, O_NONBLOCK);
	ask(e->socket, (struct header){CLOSE, 0, 0, 0}, -1, NULL);
	close(e->uffd);
	munmap((void *)e->memory, e->length);
	close(e->lifeline);
	close(e->socket);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	char command[16];
	uint64_t count, at = 0, seed = 1;

	must(argc == 3, "usage: client DIRECTORY PAGES");
	uint64_t nr_pages = strtoul(argv[2], NULL, 10);
	uint64_t *order = calloc(nr_pages, sizeof(*order)), *shadow = calloc(nr_pages, sizeof(*shadow));
	for (uint64_t i = 0; i < nr_pages; i++) {
		seed = seed * 6364136223846793005UL + 1442695040888963407UL;
		uint64_t j = (seed >> 33) % (i + 1);
		order[i] = order[j];
		order[j] = i;
	}
	struct enclave e = enclave_new(argv[1], nr_pages * PAGE);
	printf("ready\n");
	fflush(stdout);
	while (scanf("%15s %lu", command, &count) == 2) {
		uint64_t *took = calloc(count, sizeof(*took)), begun, total = 0;
		memset(took, 1, count * sizeof(*took));
		if (command[1] == 'r')
			at = 0;
		for (uint64_t i = 0; i < count; i++) {
			if (command[1] == 't') {
				begun = now();
				struct enclave other = enclave_new(argv[1], 8 << 20);
				took[i] = now() - begun;
				enclave_close(&other);
			} else {
				uint64_t page = order[at];
				volatile uint64_t *word = e.memory + page * (PAGE / sizeof(*word));
				at = at + 1 == nr_pages ? 0 : at + 1;
				begun = now();
				uint64_t seen = *word;
				*word = seen + 1;
				took[i] = now() - begun;
				if (seen != shadow[page]++) {
					fprintf(stderr, "page %lu has count %lu\n", page, seen);
					return 1;
				}
			}
			total += took[i];
		}
		qsort(took, count, sizeof(*took), by_size);
		printf("%lu %lu\n", total, took[count / 2]);
		fflush(stdout);
		free(took);
	}
	enclave_close(&e);
	return 0;
}
