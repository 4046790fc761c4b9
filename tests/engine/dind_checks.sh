# What somebody does with an engine of his own, run inside: each check leaves its output in /workspace/out/NAME
# and its exit code in /workspace/out/NAME.code. $IMAGE is there already; $HOST_PORT answers on the gateway.
cd /workspace
mkdir -p out
check() {
  name=$1
  shift
  timeout 60 bash -c "$*" >"out/$name" 2>&1
  echo $? >"out/$name.code"
}
export SERVER='$s = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die;
while ($c = $s->accept) { while (<$c> =~ /\S/) { } print $c "HTTP/1.0 200 OK\r\n\r\nhello from inside\n"; close $c }'
export GET='exec 3<>/dev/tcp/$0/$1; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3'

check load docker load -qi /workspace/base.tar
check whoami id -u
check info docker info
check socket stat -c %g:%a /var/run/docker.sock
check run docker run --rm '$IMAGE' cat /proc/version
check init 'docker run --rm --init $IMAGE echo reaped'
check inner_privileged 'docker run --rm --privileged $IMAGE sh -c "mount -t tmpfs none /mnt && echo mounted"'
check volume 'docker run --rm -v kept:/v $IMAGE sh -c "echo written >/v/file"; docker run --rm -v kept:/v $IMAGE cat /v/file'
check bind 'echo bound >bound; docker run --rm -v /workspace:/src $IMAGE cat /src/bound'
# Of Go's runtime, which runs its init process, runc's own included: SIGURG by tgkill(2).
cat >signals.pl <<'PERL'
$SIG{URG} = sub { $seen++ };
syscall(`uname -m` =~ /x86_64/ ? 234 : 131, 0 + $$, 0 + $$, 23) == 0 or die;
print "by tgkill: ", $seen + 0, "\n";
kill URG => $$;
print "by kill: ", $seen + 0, "\n";
PERL
check signals 'docker run --rm -v /workspace:/src $IMAGE perl /src/signals.pl'
check serve 'docker network create private && docker run -d --name web --network private -p 8080:80 $IMAGE \
  perl -MIO::Socket::INET -e "$SERVER" && sleep 0.3'
check names 'docker run --rm --network private $IMAGE bash -c "$GET" web 80'
check port 'bash -c "$GET" 127.0.0.1 8080'
check exec 'docker exec web sh -c "echo executed; exit 7"'
check exec_stdin 'echo through | docker exec -i web cat'
check top docker top web
gateway=$(while read -r _ to via _; do [ $to != 00000000 ] || echo "$via"; done </proc/net/route)
export GATEWAY=$(printf '%d.%d.%d.%d' 0x${gateway:6:2} 0x${gateway:4:2} 0x${gateway:2:2} 0x${gateway:0:2})
check outbound 'docker run --rm $IMAGE bash -c "$GET" $GATEWAY $HOST_PORT | tail -c +1 | wc -c'
check outbound_private 'docker run --rm --network private $IMAGE bash -c "$GET" $GATEWAY $HOST_PORT | wc -c'
mkdir -p compose build
cat >compose/compose.yaml <<'COMPOSE'
services:
  server:
    image: ${IMAGE}
    environment: [SERVER]
    command: ["sh", "-c", 'exec perl -MIO::Socket::INET -e "$$SERVER"']
    healthcheck: {test: ["CMD", "bash", "-c", "exec 3<>/dev/tcp/localhost/80"], interval: 500ms, retries: 20}
  client:
    image: ${IMAGE}
    environment: [GET]
    command: ["sh", "-c", 'exec bash -c "$$GET" server 80']
    depends_on: {server: {condition: service_healthy}}
COMPOSE
check compose 'cd compose && docker compose up --exit-code-from client 2>&1'
check compose_down 'cd compose && docker compose down -t 0 2>&1'
printf 'FROM %s\nRUN --mount=type=cache,target=/c echo built >/built && cat /proc/version\n' "$IMAGE" >build/Dockerfile
check build 'docker build -t made build 2>&1'
check built 'docker run --rm made cat /built'
mkdir -p /tmp/nested
check nested 'cd /tmp/nested && PYTHONPATH=/moat/site:/moat/source MOAT_HOME=/tmp/home python3 -m moat_core.cli run --no-sandbox -- echo nested'
check restart 'docker run -d --name gone $IMAGE sleep 1000 && killed=$(pidof dockerd) &&
  docker run --rm --privileged --pid host $IMAGE sh -c "kill -9 $killed"
  until now=$(pidof dockerd) && [ "$now" != "$killed" ] && timeout 5 docker info >info 2>&1; do sleep 0.1; done
  docker network inspect private >info || docker network create private >info
  docker run --rm --network private $IMAGE echo again && docker run --rm $IMAGE echo and again'
check serve_again 'docker rm -f web && docker run -d --name web --network private -p 8080:80 $IMAGE \
  perl -MIO::Socket::INET -e "$SERVER"'
# keyctl(KEYCTL_JOIN_SESSION_KEYRING): gVisor has room for 200 keys, and never takes one back.
cat >keys.pl <<'PERL'
$keyctl = `uname -m` =~ /x86_64/ ? 250 : 219;
$answer = syscall($keyctl, 1, 0) for 1..250;
print $answer < 0 ? "no more keys\n" : "";
PERL
check keys 'perl keys.pl; docker run --rm $IMAGE echo runs; docker run --rm --runtime runc $IMAGE echo runs too'
touch out/done
# The outside looks at the container and at its port meanwhile.
limit=$((SECONDS + 60))
until [ -e go-on ] || [ $SECONDS -ge $limit ]; do sleep 0.1; done
