// libnids as a peer: follow TCP streams of a capture and count what is delivered in order. nids FILE FLOWS
#include <nids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long flows, events, to_server, to_client;

static void silent(int type, int err, struct ip *ip, void *data)
{
    (void)type, (void)err, (void)ip, (void)data;
}

static void on_stream(struct tcp_stream *s, void **user)
{
    (void)user;
    if (s->nids_state == NIDS_JUST_EST) {
        s->server.collect++;
        s->client.collect++;
        flows++;
    } else if (s->nids_state == NIDS_DATA) {
        to_server += s->server.count_new;
        to_client += s->client.count_new;
        events++;
    }
}

int main(int argc, char **argv)
{
    static struct nids_chksum_ctl unchecked = {.action = NIDS_DONT_CHKSUM};
    if (argc != 3)
        return 2;
    nids_params.filename = argv[1];
    nids_params.n_tcp_streams = atoi(argv[2]) * 4 / 3 + 64;    // its table refuses more than three quarters of this
    nids_params.scan_num_hosts = 0;
    nids_params.syslog = silent;
    if (!nids_init()) {
        fprintf(stderr, "nids: %s\n", nids_errbuf);
        return 1;
    }
    nids_register_chksum_ctl(&unchecked, 1);
    nids_register_tcp(on_stream);
    nids_run();
    printf("{\"flows\": %lu, \"events\": %lu, \"to_server\": %lu, \"to_client\": %lu}\n", flows, events, to_server, to_client);
    return 0;
}
