//! Listening sockets, and what every TCP connection gets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::driver::Peer;

/// Silence on a TCP connection after which the kernel asks whether the peer is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions after which the connection is broken.
const KEEPALIVE_RETRIES: u32 = 6;

/// A socket that is bound and listening.
#[derive(Debug)]
pub enum Listener {
    /// For TCP clients.
    Tcp(TcpListener),
    /// For clients on a Unix-domain socket. Its file is the owner's to remove.
    Unix(UnixListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// io_uring answers EAGAIN on a socket in non-blocking mode where it would otherwise wait.
    pub(in crate::shard) fn blocking(&self) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.set_nonblocking(false),
            Listener::Unix(listener) => listener.set_nonblocking(false),
        }
    }
}

/// Listens on a TCP address with `SO_REUSEPORT`, so that each shard has a listener of its own and the kernel spreads
/// clients over them, and `SO_REUSEADDR`. An IPv6 address does not include IPv4, as in PostgreSQL (`IPV6_V6ONLY`).
///
/// `SO_REUSEPORT` also lets a second process of the same user share the port: whoever starts the proxy must exclude
/// that by other means (its state directory's lock).
///
/// # Errors
/// The kind of the system's error, with a text that names the address and, for a port that is taken or privileged or
/// an address that is not this machine's, what to do.
pub fn listen_tcp(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    open_tcp(address, backlog).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process listens there (`ss -ltnp` names it): stop it or configure another port"
            }
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address (`ip addr` lists those it has)",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{hint}"))
    })
}

fn open_tcp(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// What every TCP connection gets, accepted or connected: small messages leave at once, dead peers are noticed.
pub(in crate::shard) fn tune_tcp(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    // Switches keepalive on, too.
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))
}

/// Prepares an accepted TCP connection and asks who it is.
pub(in crate::shard) fn tcp_peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let socket = SockRef::from(&socket);
    tune_tcp(SockRef::from(&socket.as_fd()))?;
    let address = socket.peer_addr()?;
    address.as_socket().map(Peer::Tcp).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen_tcp(address, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("another process"), "{text}");
    }

    #[test]
    fn each_shard_has_its_own_listener_on_one_port() {
        let first = listen_tcp("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        listen_tcp(first.local_addr().unwrap(), 16).unwrap();
    }
}
