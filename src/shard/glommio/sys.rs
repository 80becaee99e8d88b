//! From descriptors to glommio's sockets and back. All `unsafe` of this driver is here.
//!
//! glommio makes a stream from any descriptor that one may receive from and send to, and a listener from any that one
//! may accept on; that its types are called `Tcp...` matters to none of the system calls behind them. This driver
//! therefore has one kind of stream for TCP and Unix-domain sockets.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::net::{TcpListener, TcpStream};

/// Panics outside an executor.
pub(super) fn listener(socket: OwnedFd) -> TcpListener {
    // SAFETY: the descriptor is open and handed over; the listener closes it.
    unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) }
}

/// Panics outside an executor.
pub(super) fn stream(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is open and handed over; the stream closes it.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// The stream's descriptor.
pub(super) fn fd(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream keeps it open as long as it lives, and so does the borrow.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
