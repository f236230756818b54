//! One connection to one endpoint: TCP, TLS, HTTP. Knows whether a failed request can have reached the server.

use super::endpoint::Endpoint;
use super::tls::{self, TlsSpec};
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind};
use crate::base::limits::ARBITER_ANSWER_BYTES_MAX;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::error::Error;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// A request that has no answer.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: ArbiterError,
    /// Whether the server may have carried it out, or still may.
    pub perhaps_done: bool,
}

/// A connection that is kept.
pub struct Connection {
    endpoint: Endpoint,
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; ends with the connection.
    driver: JoinHandle<()>,
    /// Whether anything was answered on it.
    pub proven: bool,
}

/// What an HTTP request was answered with.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to an endpoint. Nothing was asked when this fails.
    pub async fn open(endpoint: &Endpoint, tls: Option<&TlsSpec>, deadline: Instant) -> Result<Connection, Failure> {
        let unsent = |error| Failure { error, perhaps_done: false };
        match timeout_at(deadline, open(endpoint, tls)).await {
            Ok(opened) => opened.map_err(unsent),
            Err(_) => {
                let detail =
                    format!("{endpoint}: can't be reached in time; is the server up, and the network between?");
                Err(unsent(ArbiterError::new(ArbiterErrorKind::Unreachable, detail)))
            }
        }
    }

    /// Whether the other end has closed it, as far as is known.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one request. After a failure the connection is of no use any more.
    pub async fn post(
        &mut self,
        path: &str,
        body: &Value,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let request = self.request(path, body, token);
        let late = |endpoint: &Endpoint| Failure {
            error: ArbiterError::new(
                ArbiterErrorKind::TimedOut,
                format!("{endpoint}: no answer in time (overloaded, or without a quorum)"),
            ),
            perhaps_done: true,
        };
        let response = match timeout_at(deadline, self.sender.try_send_request(request)).await {
            Err(_) => return Err(late(&self.endpoint)),
            Ok(Err(mut failed)) => {
                // Given back: not one byte of it was sent.
                let perhaps_done = failed.take_message().is_none();
                return Err(Failure { error: self.broken(&failed.into_error()), perhaps_done });
            }
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        let whole = Limited::new(response.into_body(), ARBITER_ANSWER_BYTES_MAX).collect();
        match timeout_at(deadline, whole).await {
            Err(_) => Err(late(&self.endpoint)),
            Ok(Ok(body)) => {
                self.proven = true;
                Ok(Answer { status, body: body.to_bytes() })
            }
            Ok(Err(error)) => {
                let detail = format!("{}: the answer broke off: {error}", self.endpoint);
                let error = ArbiterError::new(ArbiterErrorKind::Protocol, detail);
                Err(Failure { error, perhaps_done: true })
            }
        }
    }

    fn request(&self, path: &str, body: &Value, token: Option<&str>) -> Request<Full<Bytes>> {
        let mut request =
            Request::post(path).header(HOST, self.endpoint.authority()).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let body = Full::new(Bytes::from(body.to_string()));
        request.body(body).expect("hosts and tokens are checked for what a header may hold")
    }

    /// What a broken connection means. A server that does not accept our certificate says so only after the
    /// handshake, or just hangs up.
    fn broken(&self, error: &hyper::Error) -> ArbiterError {
        if let Some(error) = tls::error(&self.endpoint, error) {
            return error;
        }
        let hint = match (self.proven, self.endpoint.tls) {
            (true, _) => "",
            (false, true) => " (right after the TLS handshake: it may not accept our certificate)",
            (false, false) => " (at the first request: it may want https)",
        };
        let detail = format!("{}: the connection broke: {}{hint}", self.endpoint, innermost(error));
        ArbiterError::new(ArbiterErrorKind::Unreachable, detail)
    }
}

async fn open(endpoint: &Endpoint, tls: Option<&TlsSpec>) -> Result<Connection, ArbiterError> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nobody listens there (connection refused); is etcd running?".into(),
            _ => error.to_string(),
        };
        ArbiterError::new(ArbiterErrorKind::Unreachable, format!("{endpoint}: {reason}"))
    })?;
    // One small request at a time: waiting for more to send would only cost time.
    let _ = stream.set_nodelay(true);
    let stream: Box<dyn Stream> = match endpoint.tls {
        true => Box::new(tls::wrap(endpoint, tls, stream).await?),
        false => Box::new(stream),
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| {
        ArbiterError::new(ArbiterErrorKind::Protocol, format!("{endpoint}: can't speak HTTP: {error}"))
    })?;
    // Its errors reach the request that was under way.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { endpoint: endpoint.clone(), sender, driver, proven: false })
}

/// The cause at the bottom: what is above it only says that there was one.
fn innermost(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}
