//! One address of an etcd: `https://etcd-1.example:2379`.

use std::fmt;

/// Port of etcd's clients when none is written.
const DEFAULT_PORT: u16 = 2379;

/// Where an etcd is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is asked through TLS.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Reads an endpoint; the error is what is wrong, and the next step.
    pub fn parse(text: &str) -> Result<Endpoint, (String, String)> {
        let next = || "write it as \"https://etcd-1.example:2379\"".to_string();
        let wrong = |what: &str| Err((format!("the endpoint {text:?} {what}"), next()));
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return wrong("begins with neither https:// nor http://"),
            None => return wrong("does not begin with https:// or http://"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port.strip_prefix(':')),
            Some(_) => return wrong("has no IPv6 address between its brackets"),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(allowed) {
            return wrong("has no host");
        }
        match port.map_or(Ok(DEFAULT_PORT), str::parse) {
            Ok(port) if port != 0 => Ok(Endpoint { tls, host: host.into(), port }),
            _ => wrong("has no port that can be"),
        }
    }

    /// Host and port, as the `Host` header has them.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown() {
        for (text, shown) in [
            ("https://etcd-1.example:2379", "https://etcd-1.example:2379"),
            ("http://127.0.0.1", "http://127.0.0.1:2379"),
            ("https://[fd00::1]:99/", "https://[fd00::1]:99"),
            ("https://[::1]", "https://[::1]:2379"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "etcd-1:2379",
            "ftp://a",
            "https://",
            "https://a:b",
            "https://a:0",
            "https://a:70000",
            "http://a b",
            "https://[fd00::1",
            "https://[x]:1",
            "https://::1",
            "https://a:1/path",
            "https://u@a:1",
        ] {
            let (reason, next) = Endpoint::parse(bad).unwrap_err();
            assert!(reason.contains(bad) && next.contains("https://"), "{reason}");
        }
    }
}
