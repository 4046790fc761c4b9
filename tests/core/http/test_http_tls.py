"""HTTPS on the same port: the first byte decides."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from proxied import GET, OK, Service, proxied, reset, settle


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A server's context, and one of a client that trusts it."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


async def connect(proxy, context):
    return await asyncio.open_connection(*proxy.listening, ssl=context, server_hostname="localhost")


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def version(request, contexts):
    contexts[1].maximum_version = request.param
    yield
    contexts[1].maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


@pytest.mark.usefixtures("version")
async def test_one_port_speaks_both(contexts):
    """The service is told which it was; connections are used on."""
    service = Service()
    async with proxied(service, tls=contexts[0]) as (proxy, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"ok")
        assert b"X-Forwarded-Proto: http\r\n" in service.seen
        secure_reader, secure = await connect(proxy, contexts[1])
        for _number in range(3):
            secure.write(GET.replace(b":8080", b""))
            await secure_reader.readuntil(b"ok")
        assert service.seen.count(b"X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n") == 3
        secure.close()
        await secure.wait_closed()
    assert service.connections == 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_long_bodies_both_ways(contexts, chunked):
    """Whole, with a service's and a client's back-pressure."""
    size = 3_000_000
    body = b"0123456789" * (size // 10)

    async def echo(reader, writer):
        data = await reader.readexactly(size)
        if chunked:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, data))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + data)
        await writer.drain()

    class Echo(Service):
        async def serve(self, reader, writer):
            self.writers.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            await echo(reader, writer)

    async with proxied(Echo(), tls=contexts[0]) as (proxy, _, _w):
        reader, writer = await connect(proxy, contexts[1])
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body)
        await reader.readuntil(b"\r\n\r\n")
        if chunked:
            await reader.readuntil(b"\r\n")
        assert await reader.readexactly(size) == body
        writer.close()


async def test_a_slow_client_slows_the_service_down(contexts):
    """Nothing is encrypted that nobody takes."""
    sent, size = 0, 50_000_000

    async def answer(_, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _number in range(size // 100_000):
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    async with proxied(Service(answer), tls=contexts[0]) as (proxy, _, _w):
        reader, writer = await connect(proxy, contexts[1])
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while sent != before:
            before = sent
            await settle(200)
        assert sent < 20_000_000
        assert len(await reader.readexactly(size)) == size
        writer.close()


async def test_half_a_body_does_not_look_whole(contexts):
    """There is no farewell."""

    async def answer(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        writer.close()

    async with proxied(Service(answer), tls=contexts[0]) as (proxy, _, _w):
        reader, writer = await connect(proxy, contexts[1])
        writer.write(GET)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.usefixtures("version")
async def test_the_end_is_said(contexts):
    """So that a client can tell that it is the end, and where bytes have no other."""

    async def answer(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        writer.close()

    async with proxied(Service(answer), tls=contexts[0]) as (proxy, _, _w):
        with pytest.raises(ssl.SSLEOFError):  # no farewell from a peer that only closes: the check can fail
            await farewell(contexts[1], await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=contexts[0]), b"")
        assert await farewell(contexts[1], proxy, GET) == b"until the end"


async def hang_up(_, writer):
    writer.write(b"\r\n\r\n")
    await writer.drain()
    writer.transport.abort()


async def farewell(context, server, data):
    """Send DATA and read until close_notify; a socket's end without one is an error here."""

    def talk():
        import socket

        address = server.listening if hasattr(server, "listening") else server.sockets[0].getsockname()
        with socket.create_connection(address) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
                secure.sendall(data)
                got = b""
                while piece := secure.recv(1000):
                    got += piece
                return got.partition(b"\r\n\r\n")[2]

    try:
        return await asyncio.to_thread(talk)
    finally:
        if not hasattr(server, "listening"):
            server.close()


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("first", ["client", "service"])
async def test_a_spliced_connection_is_half_closed(contexts, first):
    """One side says its farewell, and the other goes on for as long as it likes."""

    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        if first == "service":
            writer.write_eof()
            assert await reader.read() == b"more"
            done.set()
            writer.close()
            return
        while data := await reader.read(100):
            writer.write(data)
        writer.write(b"bye")
        writer.close()

    done = asyncio.Event()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with proxied(Service(answer), tls=contexts[0]) as (_, reader, writer):

        async def call(function, *arguments):
            while True:
                try:
                    result = function(*arguments)
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    data = await reader.read(65536)
                    incoming.write(data) if data else incoming.write_eof()
                else:
                    writer.write(outgoing.read())
                    return result

        await call(tls.do_handshake)
        await call(tls.write, GET[:-2] + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        got = b""
        while not got.endswith(b"hello"):
            got += await call(tls.read, 1000)
        if first == "service":
            assert await call(tls.read, 1000) == b""
            await call(tls.write, b"more")
            tls.unwrap()
            writer.write(outgoing.read())
            await done.wait()
            return
        await call(tls.write, b"more")
        assert await call(tls.read, 4) == b"more"
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        assert await call(tls.read, 3) == b"bye"


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00\x05hello" + bytes(100), b"\x16" + bytes(70_000), b"\x16GET / HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_tls_is_hung_up_on(contexts, data):
    """With an alert, if it is worth one."""
    service = Service()
    async with proxied(service, tls=contexts[0]) as (proxy, reader, writer):
        writer.write(data)
        try:
            assert len(await reader.read()) < 10
        except ConnectionResetError:
            pass
        while proxy.clients:
            await asyncio.sleep(0)
    assert service.connections == 0


async def test_without_certificates_there_is_no_https():
    """And it is said at once, in plain words."""
    async with proxied(Service()) as (_, reader, writer):
        writer.write(b"\x16\x03\x01\x00\x05hello")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")


async def test_old_tls_is_refused(contexts):
    """1.2 is the least."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with proxied(Service(), tls=contexts[0]) as (proxy, _, _w):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(proxy, old)


@pytest.mark.parametrize("how", ["wait", "reset", "end"])
async def test_a_handshake_is_not_waited_for(contexts, how):
    """Longer than a head is; and who goes in the middle of it is gone."""
    async with proxied(Service(), tls=contexts[0], head_s=20) as (proxy, reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00")
        while not any(client.scheme == "https" for client in proxy.clients):
            await asyncio.sleep(0)
        if how == "wait":
            proxy.sweep(proxy.now + 25)
            assert await reader.read() == b""
        elif how == "reset":
            reset(writer)
        else:
            writer.write_eof()
        while proxy.clients:
            await asyncio.sleep(0)


async def test_a_name_chooses_the_certificate(contexts):
    """By the context's own callback."""
    asked = []
    contexts[0].sni_callback = lambda tls, name, context: asked.append(name)
    try:
        async with proxied(Service(OK), tls=contexts[0]) as (proxy, _, _w):
            reader, writer = await connect(proxy, contexts[1])
            writer.write(GET)
            await reader.readuntil(b"ok")
            writer.close()
    finally:
        contexts[0].sni_callback = None
    assert asked == ["localhost"]
