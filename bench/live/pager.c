/*
 * The comparator of `python -m bench --only live`: what the live daemon's paging costs when nothing but paging is done.
 *
 * One thread, epoll, userfaultfd over a tmpfs without a name; a fixed number of pages an enclave, first in first out,
 * 16 written out at a time: sorted, and a run of neighbours write-protected, read and punched by one call each. Pages
 * are sealed with AES-128-GCM by libcrypto under page and version, as the daemon does. It speaks the daemon's protocol
 * (src/epcgroup/live/wire.py) so that one client measures both. SIGUSR1: unmap all resident pages (PAGEOUT).
 *
 * It trusts its clients and ends with an assertion when anything is not as expected: it is a yardstick, no service.
 *
 * usage: pager DIRECTORY PAGES-AN-ENCLAVE
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096UL
#define BATCH 16
#define SEALED_SIZE (PAGE + 16)
#define MAX_CLIENTS 64
#define MADV_PAGEOUT_ 21
#define SO_PEERPIDFD_ 77

enum { CREATE = 1, ATTACH, CLOSE };
enum { NEW, SEALED, MAPPED, UNMAPPED };

struct header {
	uint32_t op, error;
	uint64_t a, b;
};

struct client {
	int socket, uffd, file, pidfd, lifeline;
	uint64_t number, address, nr_pages, next_version;
	uint8_t *state;
	uint64_t *version;
	uint8_t **sealed;
	uint32_t *fifo; /* ring of `limit` resident pages */
	uint64_t head, resident;
	EVP_CIPHER_CTX *seal, *open;
};

static struct client clients[MAX_CLIENTS];
static int nr_clients, pool, device, events;
static uint64_t limit;
static uint8_t plain[BATCH * PAGE] __attribute__((aligned(4096)));

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void nonce(uint8_t *iv, uint32_t page, uint64_t version)
{
	memcpy(iv, &page, 4);
	memcpy(iv + 4, &version, 8);
}

static void seal(struct client *c, uint32_t page, const uint8_t *data)
{
	uint64_t where[2] = {c->number, page};
	uint8_t iv[12];
	int n;
	uint8_t *out = c->sealed[page];

	if (!out)
		out = c->sealed[page] = malloc(SEALED_SIZE);
	c->version[page] = c->next_version++;
	nonce(iv, page, c->version[page]);
	assert(EVP_EncryptInit_ex(c->seal, NULL, NULL, NULL, iv) == 1);
	assert(EVP_EncryptUpdate(c->seal, NULL, &n, (uint8_t *)where, 16) == 1);
	assert(EVP_EncryptUpdate(c->seal, out, &n, data, PAGE) == 1);
	assert(EVP_EncryptFinal_ex(c->seal, out + n, &n) == 1);
	assert(EVP_CIPHER_CTX_ctrl(c->seal, EVP_CTRL_AEAD_GET_TAG, 16, out + PAGE) == 1);
}

static void unseal(struct client *c, uint32_t page, uint8_t *out)
{
	uint64_t where[2] = {c->number, page};
	uint8_t iv[12];
	int n;

	nonce(iv, page, c->version[page]);
	assert(EVP_DecryptInit_ex(c->open, NULL, NULL, NULL, iv) == 1);
	assert(EVP_DecryptUpdate(c->open, NULL, &n, (uint8_t *)where, 16) == 1);
	assert(EVP_DecryptUpdate(c->open, out, &n, c->sealed[page], PAGE) == 1);
	assert(EVP_CIPHER_CTX_ctrl(c->open, EVP_CTRL_AEAD_SET_TAG, 16, c->sealed[page] + PAGE) == 1);
	assert(EVP_DecryptFinal_ex(c->open, out + n, &n) == 1);
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void write_out_batch(struct client *c)
{
	uint32_t victim[BATCH];
	int n = c->resident < BATCH ? c->resident : BATCH;

	for (int i = 0; i < n; i++)
		victim[i] = c->fifo[(c->head + i) % limit];
	c->head += n;
	c->resident -= n;
	qsort(victim, n, sizeof(*victim), by_number);
	for (int i = 0; i < n;) {
		int run = 1;
		while (i + run < n && victim[i + run] == victim[i] + run)
			run++;
		uint64_t offset = victim[i] * PAGE, length = run * PAGE;
		struct uffdio_writeprotect wp = {{c->address + offset, length}, UFFDIO_WRITEPROTECT_MODE_WP};
		must(ioctl(c->uffd, UFFDIO_WRITEPROTECT, &wp) == 0, "write-protect");
		must(pread(c->file, plain, length, offset) == (ssize_t)length, "pread");
		must(fallocate(c->file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length) == 0, "punch");
		for (int j = 0; j < run; j++) {
			seal(c, victim[i] + j, plain + j * PAGE);
			c->state[victim[i] + j] = SEALED;
		}
		i += run;
	}
}

static void fault(struct client *c, uint64_t address)
{
	uint32_t page = (address - c->address) / PAGE;
	uint64_t at = c->address + page * PAGE;

	assert(page < c->nr_pages);
	if (c->state[page] == UNMAPPED || c->state[page] == MAPPED) {
		struct uffdio_continue resume = {{at, PAGE}, 0, 0};
		must(ioctl(c->uffd, UFFDIO_CONTINUE, &resume) == 0, "continue");
		c->state[page] = MAPPED;
		return;
	}
	if (c->resident == limit)
		write_out_batch(c);
	if (c->state[page] == SEALED)
		unseal(c, page, plain);
	else
		memset(plain, 0, PAGE);
	struct uffdio_copy copy = {at, (uint64_t)plain, PAGE, 0, 0};
	must(ioctl(c->uffd, UFFDIO_COPY, &copy) == 0, "copy");
	c->state[page] = MAPPED;
	c->fifo[(c->head + c->resident++) % limit] = page;
}

static void unmap_all(void)
{
	for (int i = 0; i < nr_clients; i++) {
		struct client *c = &clients[i];
		struct iovec some[512];
		int n = 0;
		for (uint64_t page = 0; page <= c->nr_pages && c->uffd >= 0; page++) {
			if (n == 512 || (page == c->nr_pages && n)) {
				must(syscall(SYS_process_madvise, c->pidfd, some, n, MADV_PAGEOUT_, 0) >= 0, "pageout");
				n = 0;
			}
			if (page < c->nr_pages && c->state[page] == MAPPED) {
				some[n++] = (struct iovec){(void *)(c->address + page * PAGE), PAGE};
				c->state[page] = UNMAPPED;
			}
		}
	}
}

static void answer(struct client *c, struct header *h, int *fds, int n)
{
	struct iovec text = {h, sizeof(*h)};
	char control[CMSG_SPACE(4 * sizeof(int))] = {0};
	struct msghdr m = {.msg_iov = &text, .msg_iovlen = 1};

	if (n) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		struct cmsghdr *rights = CMSG_FIRSTHDR(&m);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(rights), fds, n * sizeof(int));
	}
	must(sendmsg(c->socket, &m, MSG_NOSIGNAL) == sizeof(*h), "send");
}

static void create(struct client *c, struct header *h)
{
	int pipes[2];
	uint8_t key[16];

	c->nr_pages = 1;
	while (c->nr_pages * PAGE < h->a)
		c->nr_pages *= 2;
	c->file = openat(pool, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	must(c->file >= 0 && ftruncate(c->file, c->nr_pages * PAGE) == 0, "file");
	must(pipe2(pipes, O_CLOEXEC) == 0, "pipe");
	c->lifeline = pipes[1];
	c->state = calloc(c->nr_pages, 1);
	c->version = calloc(c->nr_pages, sizeof(*c->version));
	c->sealed = calloc(c->nr_pages, sizeof(*c->sealed));
	c->fifo = calloc(limit, sizeof(*c->fifo));
	c->next_version = 1;
	RAND_bytes(key, sizeof(key));
	c->seal = EVP_CIPHER_CTX_new();
	c->open = EVP_CIPHER_CTX_new();
	assert(EVP_EncryptInit_ex(c->seal, EVP_aes_128_gcm(), NULL, key, NULL) == 1);
	assert(EVP_DecryptInit_ex(c->open, EVP_aes_128_gcm(), NULL, key, NULL) == 1);
	h->a = c->nr_pages * PAGE;
	h->b = c->number;
	answer(c, h, (int[]){c->file, device, pipes[0]}, 3);
	close(pipes[0]);
}

static void attach(struct client *c, struct header *h, int fd)
{
	struct uffdio_api api = {UFFD_API, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |
		UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 0};
	struct uffdio_register area = {{h->a, c->nr_pages * PAGE},
		UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR, 0};
	struct epoll_event event = {EPOLLIN, {.u64 = (uint64_t)(c - clients) << 1 | 1}};

	must(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0, "api");
	must(ioctl(fd, UFFDIO_REGISTER, &area) == 0, "register");
	c->uffd = fd;
	c->address = h->a;
	must(epoll_ctl(events, EPOLL_CTL_ADD, fd, &event) == 0, "epoll");
	answer(c, h, NULL, 0);
}

/* What one enclave has, but its connection. */
static void forget(struct client *c)
{
	if (c->uffd >= 0) {
		epoll_ctl(events, EPOLL_CTL_DEL, c->uffd, NULL);
		close(c->uffd);
		c->uffd = -1;
	}
	if (!c->nr_pages)
		return;
	close(c->file);
	close(c->lifeline);
	for (uint64_t page = 0; page < c->nr_pages; page++)
		free(c->sealed[page]);
	free(c->state), free(c->version), free(c->sealed), free(c->fifo);
	EVP_CIPHER_CTX_free(c->seal), EVP_CIPHER_CTX_free(c->open);
	c->nr_pages = 0;
}

static void hear(struct client *c)
{
	struct header h;
	struct iovec text = {&h, sizeof(h)};
	char control[CMSG_SPACE(4 * sizeof(int))];
	struct msghdr m = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int fd = -1;

	if (recvmsg(c->socket, &m, MSG_CMSG_CLOEXEC) != sizeof(h)) {
		forget(c);
		close(c->socket);
		close(c->pidfd);
		return;
	}
	for (struct cmsghdr *r = CMSG_FIRSTHDR(&m); r; r = CMSG_NXTHDR(&m, r))
		if (r->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(r), sizeof(fd));
	h.error = 0;
	if (h.op == CREATE) {
		create(c, &h);
	} else if (h.op == ATTACH) {
		attach(c, &h, fd);
	} else if (h.op == CLOSE) {
		forget(c);
		answer(c, &h, NULL, 0);
	} else {
		h.error = ENOSYS;
		answer(c, &h, NULL, 0);
	}
}

static void accept_client(int server)
{
	struct client *c = &clients[nr_clients];
	socklen_t size = sizeof(c->pidfd);

	must(nr_clients < MAX_CLIENTS, "too many clients");
	*c = (struct client){.number = nr_clients++, .uffd = -1};
	c->socket = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	must(c->socket >= 0 && getsockopt(c->socket, SOL_SOCKET, SO_PEERPIDFD_, &c->pidfd, &size) == 0, "accept");
	struct epoll_event event = {EPOLLIN, {.u64 = c->number << 1}};
	must(epoll_ctl(events, EPOLL_CTL_ADD, c->socket, &event) == 0, "epoll");
}

int main(int argc, char **argv)
{
	struct sockaddr_un name = {AF_UNIX, ""};
	char size[32];
	sigset_t usr1;
	const uint64_t server_tag = ~0UL, signal_tag = ~1UL;

	must(argc == 3, "usage: pager DIRECTORY PAGES");
	limit = strtoul(argv[2], NULL, 10);
	snprintf(size, sizeof(size), "%lu", limit * MAX_CLIENTS * PAGE);
	int context = syscall(SYS_fsopen, "tmpfs", 1);
	must(context >= 0, "fsopen");
	must(syscall(SYS_fsconfig, context, 1, "size", size, 0) == 0, "size");
	must(syscall(SYS_fsconfig, context, 1, "huge", "never", 0) == 0, "huge");
	must(syscall(SYS_fsconfig, context, 6, NULL, NULL, 0) == 0, "tmpfs");
	pool = syscall(SYS_fsmount, context, 1, 0);
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	must(pool >= 0 && device >= 0, "pool");
	int server = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(name.sun_path, sizeof(name.sun_path), "%s/socket", argv[1]);
	must(bind(server, (struct sockaddr *)&name, sizeof(name)) == 0 && listen(server, 64) == 0, "socket");
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	int signals = signalfd(-1, &usr1, SFD_CLOEXEC);
	events = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {EPOLLIN, {.u64 = server_tag}};
	epoll_ctl(events, EPOLL_CTL_ADD, server, &event);
	event.data.u64 = signal_tag;
	epoll_ctl(events, EPOLL_CTL_ADD, signals, &event);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		struct epoll_event ready[64];
		int n = epoll_wait(events, ready, 64, -1);
		for (int i = 0; i < n; i++) {
			uint64_t tag = ready[i].data.u64;
			if (tag == server_tag) {
				accept_client(server);
			} else if (tag == signal_tag) {
				struct signalfd_siginfo info;
				must(read(signals, &info, sizeof(info)) == sizeof(info), "signal");
				unmap_all();
				printf("unmapped\n");
				fflush(stdout);
			} else if (tag & 1) {
				struct client *c = &clients[tag >> 1];
				struct uffd_msg messages[BATCH];
				ssize_t length = c->uffd < 0 ? 0 : read(c->uffd, messages, sizeof(messages));
				for (ssize_t j = 0; j < length / (ssize_t)sizeof(*messages); j++)
					fault(c, messages[j].arg.pagefault.address);
			} else {
				hear(&clients[tag >> 1]);
			}
		}
	}
}
