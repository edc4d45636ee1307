/* Many short TCP connections: a byte there, a byte back, the client closes.
 *
 *     connections serve PORT PORTS
 *     connections open N AT_A_TIME SERVER PORT PORTS SOURCE SOURCES
 *
 * `open` takes N connections from SOURCES addresses, SOURCE and those after it, to PORTS ports, each pair in turn, AT_A_TIME
 * under way. Prints for each port how many were done, and why others failed, as JSON. The kernel picks source ports.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PORTS = 64, MAX_ERRNO = 200, EVENTS = 512, MAX_FD = 1 << 20, PATIENCE_S = 60 };
static struct epoll_event ready[EVENTS];
static uint8_t port_of[MAX_FD], asked[MAX_FD];
static time_t since[MAX_FD];

static void die(const char *what) { perror(what); exit(1); }

static void watch(int poll, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e) < 0)
        die("epoll_ctl");
}

static int serve(int first, int ports)
{
    int poll = epoll_create1(0), one = 1, listening = 0;
    char c[64];
    for (int i = 0; i < ports; i++) {
        int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(first + i)};
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(s, (void *)&at, sizeof at) < 0 || listen(s, 65535) < 0)
            die("listen");
        watch(poll, s, EPOLLIN);
        listening = s;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poll, ready, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd, got;
            if (fd <= listening) {
                while ((got = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0)
                    watch(poll, got, EPOLLIN);
                continue;
            }
            got = read(fd, c, sizeof c);
            if (got <= 0 || write(fd, c, got) != got)
                close(fd);
        }
    }
}

static int begin(int poll, long k, struct sockaddr_in to, int first, int ports, uint32_t source, int sources)
{
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source + k / ports % sources)};
    if (s < 0 || s >= MAX_FD)
        die("socket");
    setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(s, (void *)&from, sizeof from) < 0)
        die("bind");
    port_of[s] = k % ports, asked[s] = 0, since[s] = time(NULL);
    to.sin_port = htons(first + k % ports);
    if (connect(s, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        die("connect");
    watch(poll, s, EPOLLOUT);
    return s;
}

/* What is due on a connection: 0 it goes on, 1 it is done, else minus the errno of its failure. */
static int go_on(int poll, int fd)
{
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    int error = 0;
    socklen_t size = sizeof error;
    char c[64];
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        return -error;
    if (!asked[fd]) {
        asked[fd] = 1;
        if (write(fd, "x", 1) != 1)
            return -errno;
        epoll_ctl(poll, EPOLL_CTL_MOD, fd, &e);
        return 0;
    }
    int n = read(fd, c, sizeof c);
    return n == 1 && *c == 'x' ? 1 : n < 0 ? -errno : -EPROTO;
}

int main(int argc, char **argv)
{
    static long done[MAX_PORTS], failed[MAX_PORTS][MAX_ERRNO];
    struct rlimit most = {MAX_FD, MAX_FD};
    if (setrlimit(RLIMIT_NOFILE, &most) < 0 && !getrlimit(RLIMIT_NOFILE, &most)) {
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    if (argc == 4)
        return serve(atoi(argv[2]), atoi(argv[3]));
    if (argc != 9)
        return fprintf(stderr, "usage: see the source\n"), 2;
    long n = atol(argv[2]), begun = 0, over = 0;
    int together = atoi(argv[3]), first = atoi(argv[5]), ports = atoi(argv[6]), sources = atoi(argv[8]), highest = 0;
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct in_addr source;
    time_t swept = time(NULL);
    inet_pton(AF_INET, argv[4], &to.sin_addr);
    inet_pton(AF_INET, argv[7], &source);
    int poll = epoll_create1(0);
    while (over < n) {
        while (begun < n && begun - over < together) {
            int s = begin(poll, begun++, to, first, ports, ntohl(source.s_addr), sources);
            highest = s > highest ? s : highest;
        }
        int got = epoll_wait(poll, ready, EVENTS, 1000);
        for (int i = 0; i < got; i++) {
            int fd = ready[i].data.fd, how = go_on(poll, fd);
            if (!how)
                continue;
            if (how > 0)
                done[port_of[fd]]++;
            else
                failed[port_of[fd]][-how]++;
            since[fd] = 0;
            close(fd);
            over++;
        }
        if (time(NULL) > swept + 5) {
            swept = time(NULL);
            for (int fd = 0; fd <= highest; fd++)
                if (since[fd] && swept - since[fd] > PATIENCE_S) {
                    failed[port_of[fd]][ETIMEDOUT]++;
                    since[fd] = 0;
                    close(fd);
                    over++;
                }
        }
    }
    printf("{");
    for (int p = 0; p < ports; p++) {
        printf("%s\"%d\": {\"done\": %ld", p ? ", " : "", first + p, done[p]);
        for (int e = 0; e < MAX_ERRNO; e++)
            if (failed[p][e])
                printf(", \"%s\": %ld", strerrorname_np(e), failed[p][e]);
        printf("}");
    }
    printf("}\n");
    return 0;
}
