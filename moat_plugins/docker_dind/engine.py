"""The sh texts that start the inner engine, keep it alive and run its containers.

What is special in gVisor was found with runsc 20240729 and Docker 26.1.5; docs/docker-dind.md has the evidence:

- It has no ``MASQUERADE``; ``SNAT`` for tcp and for udp, without further matches, does the same. So the engine's own
  rules are off and these two are ours.
- Frames between the ports of a bridge are seen by the run's own network stack, too, which would forward them once
  more, after translation; the second copy resets connections. So nothing is forwarded but to and from the outside,
  which also keeps inner networks apart, as the engine's own rules would.
- What comes in may be larger than the interface's MTU (the host's kernel joins segments), and is not split when it is
  forwarded. Inner networks therefore have the largest MTU; what goes out is held down by the other side's MSS.
- A signal that comes while a FIFO is being opened makes ``open`` fail with EINTR, whatever SA_RESTART says
  (google/gvisor pull request 14849). Go's runtime sends itself SIGURG to preempt goroutines, and runc's init process
  opens one: one `docker run` in some hundreds failed. So those signals are swallowed, in the engine and below.
- A process cannot enter another's PID namespace, which is how runc executes something in a container. So inner
  containers share the run's; ``--runtime runc`` gives one its own, and no ``docker exec``.
"""

from __future__ import annotations

__all__ = ["CALM", "CONTAINERD", "KEEP", "READY", "RUNC", "SERVE", "START"]

CALM = """\
#!/usr/bin/perl -w
# calm COMMAND ARGUMENT...: runs it in a session of its own, with a seccomp filter that its children inherit: tgkill(2)
# of SIGURG does nothing, and says that it succeeded. GODEBUG=asyncpreemptoff=1 would do, if runc passed it on to its
# init process.
use strict; use Config;
my ($arch, $tgkill, $prctl, $setsid) =
  $Config{archname} =~ /^x86_64/ ? (0xC000003E, 234, 157, 112) : (0xC00000B7, 131, 167, 157);
my @filter = (
  [0x20, 0, 0, 4], [0x15, 0, 5, $arch],    # another architecture's calls: allowed
  [0x20, 0, 0, 0], [0x15, 0, 3, $tgkill],  # another call
  [0x20, 0, 0, 32], [0x15, 0, 1, 23],      # its third argument: another signal than SIGURG
  [0x06, 0, 0, 0x00050000], [0x06, 0, 0, 0x7fff0000],
);
my $filter = join '', map { pack 'SCCL', @$_ } @filter;
my $program = pack 'S x6 P', scalar @filter, $filter;
syscall($setsid);
syscall($prctl, 22, 2, $program) == 0 or warn "moat: no seccomp filter: $!\\n";
exec @ARGV;
"""

RUNC = """\
#!/bin/sh
# The OCI runtimes of the inner engine in gVisor. `runc`, which its builder takes, too, makes no session keyring: gVisor
# would run out of keys after 200 containers. `runc-shared`, its default, makes no PID namespace for each container
# either, and a `docker run --init` that reaps without being process 1. The text that is edited is containerd's: quotes
# inside of values are escaped there, so that only a real entry can match.
moat_last= moat_bundle= moat_action=
for moat_word; do
  shift
  set -- "$@" "$moat_word"
  [ "$moat_last" != --bundle ] || moat_bundle=$moat_word
  case $moat_action$moat_word in create | run)
    moat_action=$moat_word
    set -- "$@" --no-new-keyring
  esac
  moat_last=$moat_word
done
[ "${0##*/}$moat_action" != runc-sharedcreate ] || [ -z "$moat_bundle" ] ||
  sed -i 's/{"type":"pid"[^}]*},//;s/,{"type":"pid"[^}]*}//
    s,"/sbin/docker-init"\\,"--","/sbin/docker-init"\\,"-s"\\,"--",' "$moat_bundle/config.json"
exec "${0%/*}/runc-real" "$@"
"""

CONTAINERD = """\
# Without what dockerd has no use for: it takes time to start.
version = 2
root = "/var/lib/docker/containerd/daemon"
state = "/run/docker/containerd/daemon"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.transfer", "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.transfer.v1.local",
]
[grpc]
  address = "/run/docker/containerd/containerd.sock"
"""

SERVE = """\
#!/bin/sh
# serve ARGUMENT…: containerd and dockerd, each started again when it dies; dockerd once it has been ready, and five
# times at the most. dockerd would start containerd by itself, and then wait a second for it; of a socket that is not
# there yet it asks again every 10 ms.
moat_socket=/run/docker/containerd/containerd.sock
[ ! -S "$moat_socket" ] || rm -f "$moat_socket"
while :; do
  containerd --log-level warn --config /usr/local/lib/moat/dind/containerd.toml
  echo "moat: containerd ended with exit code $?."
  sleep 1
done &
moat_containerd=$!
moat_left=5
while :; do
  dockerd --containerd "$moat_socket" "$@"
  echo "moat: dockerd ended with exit code $?."
  [ -e /run/moat-dind ] || break
  [ $moat_left -gt 0 ] || { echo 'moat: it is not started again.'; break; }
  moat_left=$((moat_left - 1))
  # gVisor does not say of an interface that it is a bridge, so dockerd would not take its own back.
  if [ "$moat_isolated" = 1 ]; then
    for moat_bridge in $(ip -o link show | sed -n 's/^[0-9]*: \\(docker0\\|br-[^:@]*\\).*/\\1/p'); do
      ip link delete "$moat_bridge"
    done
    rm -rf /var/lib/docker/network
  fi
  rm -f /var/run/docker.pid
done
kill $moat_containerd
exit 1
"""

READY = """\
#!/usr/bin/perl -w
# ready PROCESS SECONDS LOG: waits until the engine answers. Ends with 3 when PROCESS has ended, with 4 when the time is
# up. (`docker info` starts each plugin of the docker command, and the engine runc for its version: half a second.)
use strict; use Socket;
my ($process, $seconds, $log) = @ARGV;
my $end = time + $seconds;
$SIG{ALRM} = sub { die };
my $is_there;
until ($is_there) {
  $is_there = eval {
    alarm 5;
    socket my $engine, AF_UNIX, SOCK_STREAM, 0 or die;
    connect $engine, pack_sockaddr_un '/var/run/docker.sock' or die;
    syswrite $engine, "GET /_ping HTTP/1.0\\r\\nHost: docker\\r\\n\\r\\n" or die;
    <$engine> =~ m{^HTTP/1.. 200 };
  };
  alarm 0;
  last if $is_there;
  exit 4 if time >= $end;
  open my $stat, '<', "/proc/$process/stat" or exit 3;
  exit 3 if <$stat> =~ /\\) Z /;
  select undef, undef, undef, 0.01;
}
open my $said, '<', $log or exit 0;
for (<$said>) {
  /msg="Docker daemon".* storage-driver=vfs/ or next;
  print STDERR "moat: warning: the inner Docker engine stores images with vfs, which may take 15 times the space.\\n";
  last;
}
"""

KEEP = """\
#!/bin/sh
# keep FILE: writes the engine's images to FILE whenever there are others. Until the next change FILE is complete,
# whenever the run ends.
moat_known=
docker events --filter type=image --filter event=pull --filter event=load --filter event=tag --format . |
  while read -r _; do
    moat_images=$(docker image ls --format '{{.Repository}}:{{.Tag}} {{.ID}}' | grep -v '<none>' | sort -u)
    [ "$moat_images" != "$moat_known" ] && [ -n "$moat_images" ] || continue
    docker save -o "$1.new" $(printf '%s\\n' "$moat_images" | sed 's/ .*//') && mv -f "$1.new" "$1" || continue
    moat_known=$moat_images
  done
"""

START = """\
# To be sourced by an init step, with these set: moat_gid (who may use the engine), moat_ready_s, moat_storage,
# moat_isolated (1: this is gVisor), moat_name (the host's name here), moat_cached (1: /var/lib/docker is kept;
# in gVisor, where it cannot be, images are saved to and loaded from a file).
moat_dind=/usr/local/lib/moat/dind
moat_log=/var/log/dockerd.log

# The address that this host's name has.
moat_own_address() {
  while read -r moat_address moat_names; do
    case " $moat_names " in *" $moat_name "*) echo "$moat_address" ;; esac
  done </etc/hosts
}

moat_default_interface() {
  while read -r moat_interface moat_destination _; do
    [ "$moat_destination" != 00000000 ] || echo "$moat_interface"
  done </proc/net/route
}

moat_prepare_gvisor() {
  echo 1 >/proc/sys/net/ipv4/ip_forward
  moat_out=$(moat_default_interface)
  moat_from=$(moat_own_address)
  [ -n "$moat_out" ] && [ -n "$moat_from" ] || return 0
  iptables-legacy-restore <<RULES
*filter
-A FORWARD -i $moat_out -j ACCEPT
-A FORWARD -o $moat_out -j ACCEPT
-A FORWARD -j DROP
COMMIT
*nat
-A POSTROUTING -o $moat_out -p tcp -j SNAT --to-source $moat_from
-A POSTROUTING -o $moat_out -p udp -j SNAT --to-source $moat_from
COMMIT
RULES
}

# What Docker's own image does in a privileged container: cgroup v2 wants processes in the leaves only, mounts
# are to be shared, and iptables is of the kind that this kernel has.
moat_prepare_privileged() {
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/init
    while read -r moat_process; do
      echo "$moat_process" >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || :
    done </sys/fs/cgroup/cgroup.procs
    for moat_controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
      echo "+$moat_controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :
    done
  fi
  mount --make-rshared / || :
  if iptables -t nat -S >/dev/null 2>&1; then moat_path=$PATH; else moat_path=$moat_dind:$PATH; fi
}

# Nothing but images is kept: containers and volumes end with the run that made them. Called before the engine
# starts, for it would start containers with a restart policy. Their layers are known by these files.
moat_clear_cached() {
  rm -rf /var/lib/docker/containers /var/lib/docker/volumes /var/lib/docker/network /var/lib/docker/swarm
  for moat_layer in /var/lib/docker/image/*/layerdb/mounts/*; do
    [ -d "$moat_layer" ] || continue
    moat_storage_root=${moat_layer#/var/lib/docker/image/}
    for moat_file in mount-id init-id; do
      [ ! -s "$moat_layer/$moat_file" ] || {
        moat_id=$(cat "$moat_layer/$moat_file")
        rm -rf "/var/lib/docker/${moat_storage_root%%/*}/$moat_id" "/var/lib/docker/vfs/dir/$moat_id"
      }
    done
    rm -rf "$moat_layer"
  done
}

moat_fail() {
  echo "moat: the inner Docker engine $1. Its log ($moat_log) ends with:" >&2
  tail -n 20 "$moat_log" >&2
  exit 1
}

moat_serve="setsid $moat_dind/serve"
moat_rules=
set -- --group "$moat_gid"
[ "$moat_storage" = auto ] || set -- "$@" --storage-driver "$moat_storage"
if [ "$moat_isolated" = 1 ]; then
  moat_prepare_gvisor &
  moat_rules=$!
  moat_path=$moat_dind:$PATH
  moat_serve="$moat_dind/calm $moat_dind/serve"
  set -- "$@" --iptables=false --ip6tables=false --mtu 65520 \\
    --default-network-opt bridge=com.docker.network.driver.mtu=65520 \\
    --add-runtime "moat=$moat_dind/runc-shared" --default-runtime moat
else
  moat_prepare_privileged
fi
[ "$moat_cached" != 1 ] || [ "$moat_isolated" = 1 ] || moat_clear_cached

export moat_isolated
PATH=$moat_path $moat_serve "$@" </dev/null >>"$moat_log" 2>&1 &
moat_server=$!
moat_code=0
"$moat_dind/ready" "$moat_server" "$moat_ready_s" "$moat_log" || moat_code=$?
case $moat_code in
  0) ;;
  4) moat_fail "did not answer within $moat_ready_s s" ;;
  3) moat_fail 'ended' ;;
  *) exit 1 ;;
esac
[ -z "$moat_rules" ] || wait "$moat_rules" || {
  echo 'moat: the rules by which inner containers reach the world cannot be set.' >&2
  exit 1
}
: >/run/moat-dind
if [ "$moat_cached" = 1 ] && [ "$moat_isolated" = 1 ]; then
  moat_file=/var/lib/moat-docker/images.tar
  chmod 700 "${moat_file%/*}"
  [ ! -e "$moat_file" ] || docker load -qi "$moat_file" >/dev/null || {
    echo 'moat: warning: the images of earlier runs cannot be read; they are forgotten.' >&2
    rm -f "$moat_file"
  }
  setsid "$moat_dind/keep" "$moat_file" </dev/null >>"$moat_log" 2>&1 &
fi
"""
