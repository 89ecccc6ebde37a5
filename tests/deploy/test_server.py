"Who may ask the small server, how much, and how long."
import socket
import time

import pytest

from pet_classifier.deploy.server import BodyLimit, PageServer, Refused, bind_port, is_loopback, refusal_reason

applications = pytest.importorskip('starlette.applications')
pytest.importorskip('uvicorn')


@pytest.fixture
def serve():
    "A function that serves a page that answers with the number of the bytes that it was sent"
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    servers = []
    def serve(limit, **kwargs):
        async def use(data): return PlainTextResponse(f'{len(data)} bytes')
        async def count(request):
            try: return await limit(request, use)
            except Refused as e: return PlainTextResponse(e.why, e.status)
        with socket.create_server(('127.0.0.1', 0)) as free: port = free.getsockname()[1]
        app = applications.Starlette(routes=[Route('/', count, methods=['POST'])])
        servers.append(PageServer(app, bind_port(port), **kwargs).start())
        return port
    yield serve
    for server in servers: server.close()


def say(port, pieces):
    "What the server says to the `pieces`, sent one after the other until it hangs up"
    got = b''
    with socket.create_connection(('127.0.0.1', port), timeout=20) as line:
        try:
            for piece in pieces: line.sendall(piece)
            while more := line.recv(65536): got += more
        except OSError: pass
    return got.decode()


def slowly(head, piece):
    yield head
    for _ in range(200):
        time.sleep(.05)
        yield piece


HEAD = b'POST / HTTP/1.1\r\nHost: localhost\r\n'


def test_slow_senders_are_hung_up_on_and_keep_nobody_waiting(serve):
    port = serve(BodyLimit(1000, seconds=1), header_seconds=1)  # enough for an honest sender on a busy machine
    assert say(port, [b'POST / HT']) == ''
    assert say(port, [HEAD, *[b'X-A: a\r\n']*2]) == ''
    with socket.create_connection(('127.0.0.1', port)) as slow:
        slow.sendall(HEAD + b'Content-Length: 100\r\n\r\nabc')
        assert '3 bytes' in say(port, [HEAD + b'Content-Length: 3\r\n\r\nabc'])
        assert b' 408 ' in slow.recv(1000)


def test_no_connection_stays_for_ever(serve):
    port = serve(BodyLimit(10**6, seconds=100), seconds=.3)
    assert say(port, slowly(HEAD + b'Transfer-Encoding: chunked\r\n\r\n', b'1\r\na\r\n')) == ''


@pytest.mark.parametrize('length, status', [(1000, 200), (1001, 413), (10**12, 413), (-1, 400), ('x', 400)])
def test_a_body_has_a_limit_before_it_is_read(serve, length, status):
    body = bytes(length) if status == 200 else b''
    assert f' {status} ' in say(serve(BodyLimit(1000)), [HEAD + f'Content-Length: {length}\r\n\r\n'.encode() + body])


def test_a_body_of_unknown_length_has_the_same_limit_and_nothing_of_it_is_kept(serve):
    port = serve(limit := BodyLimit(1000))
    chunked = HEAD + b'Transfer-Encoding: chunked\r\n\r\n'
    assert '999 bytes' in say(port, [chunked, *[b'1\r\na\r\n']*999, b'0\r\n\r\n'])
    assert ' 413 ' in say(port, [chunked, *[b'64\r\n' + bytes(100) + b'\r\n']*11])
    assert limit.held == 0


def test_what_broke_off_is_forgotten(serve):
    port = serve(limit := BodyLimit(1000))
    with socket.create_connection(('127.0.0.1', port)) as line:
        line.sendall(HEAD + b'Content-Length: 900\r\n\r\n' + bytes(800))
        while not limit.held: time.sleep(.01)
    while limit.held: time.sleep(.01)


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1', '127.9.9.9', '::1', '[::1]'])
def test_loopback(host): assert is_loopback(host)


@pytest.mark.parametrize('host', ['', 'localhost.evil.example', '0.0.0.0', '10.0.0.1', '::', '127.0.0.1.a'])  # noqa: S104
def test_no_loopback(host): assert not is_loopback(host)


@pytest.mark.parametrize('local', [True, False])
@pytest.mark.parametrize('origin', ['https://evil.example', 'null', '', 'http://localhost:1', 'http://localhost:80@evil.example', 'http://['])
def test_pages_of_other_sites_are_refused(origin, local):
    assert refusal_reason({'host': 'localhost:80', 'origin': origin}, local)


def test_a_port_is_taken_once():
    with bind_port(port := free(), 'localhost'):
        with pytest.raises(OSError, match=f'choose another port, such as {port+1}'): bind_port(port)
    with pytest.raises(OSError, match='cannot listen on port 7860 of 192.0.2.1'): bind_port(7860, '192.0.2.1')
    for wrong in 0, -1, 70_000:
        with pytest.raises(ValueError, match='expected 1 to 65535'): bind_port(wrong)


def free():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]
