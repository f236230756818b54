//! Addresses of the configuration: the link's and heartbeat's (`IP:PORT`), and where NBD is served.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Longest path of a unix socket, in bytes: what the kernel's `sun_path` holds with its closing zero.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where a volume is served over NBD.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NbdAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            NbdAddress::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Reads `IP:PORT`. The error says what is wrong and what is expected.
pub fn parse_socket(text: &str) -> Result<SocketAddr, (String, String)> {
    let expected = || {
        "write a numeric address and a port, as in \"10.0.0.1:7101\" or \"[fd00::1]:7101\"; names are not looked up"
            .to_string()
    };
    let address: SocketAddr =
        text.parse().map_err(|_| (format!("\"{text}\" is no address with a port"), expected()))?;
    if address.port() == 0 {
        return Err((format!("\"{text}\" has port 0"), "choose a port from 1 to 65535".into()));
    }
    Ok(address)
}

/// Reads an address the peer can dial: not the wildcard.
pub fn parse_peer_socket(text: &str) -> Result<SocketAddr, (String, String)> {
    let address = parse_socket(text)?;
    if address.ip().is_unspecified() {
        let reason = format!("\"{text}\" stands for every address of this server, so the peer can't dial it");
        return Err((reason, "write the address of the interface the two servers share".into()));
    }
    if address.ip().is_multicast() {
        return Err((format!("\"{text}\" is a multicast address"), "write the address of one interface".into()));
    }
    Ok(address)
}

/// Reads `unix:PATH` or `tcp:IP:PORT`; `absolute` makes a path relative to the file absolute.
pub fn parse_nbd(text: &str, absolute: impl Fn(&str) -> PathBuf) -> Result<NbdAddress, (String, String)> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = absolute(path);
        check_unix_path(&path)?;
        return Ok(NbdAddress::Unix(path));
    }
    if let Some(socket) = text.strip_prefix("tcp:") {
        return parse_socket(socket).map(NbdAddress::Tcp);
    }
    let reason = format!("\"{text}\" is no NBD address");
    Err((reason, "write \"unix:PATH\" or \"tcp:IP:PORT\", as in \"tcp:127.0.0.1:10809\"".into()))
}

/// Checks that a unix socket can be bound at a path.
pub fn check_unix_path(path: &std::path::Path) -> Result<(), (String, String)> {
    let length = path.as_os_str().len();
    if path.file_name().is_none() {
        return Err(("the path names no file".into(), "write the path of the socket to make".into()));
    }
    if length > UNIX_PATH_BYTES_MAX {
        let reason = format!("the path {} has {length} bytes", path.display());
        return Err((reason, format!("choose one of at most {UNIX_PATH_BYTES_MAX} bytes, the kernel's limit")));
    }
    Ok(())
}
