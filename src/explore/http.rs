//! As much of HTTP/1.1 as the page needs, with everything bounded: sizes, times, connections.
//!
//! A connection is a thread. Where there are [`MOST`] of them, the one that has waited longest for the rest of a request
//! makes room for the next, so that requests that never end keep nobody out.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Connections at a time.
const MOST: usize = 256;
/// Bytes of a request line and its headers.
const LONGEST_HEAD: usize = 16 << 10;
/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long the head of a request may take, then its body, then each write of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a thread; what it handles lies on the heap.
const STACK: usize = 256 << 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// An answer.
    Get,
    /// Its head alone.
    Head,
    /// An answer to a body.
    Post,
}

/// A whole request.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// As it was sent, what follows `?` left out.
    pub path: String,
    /// By lower-case name; of one that came twice, both, with a comma.
    pub headers: HashMap<String, String>,
    /// Empty without one.
    pub body: Vec<u8>,
}

/// What is answered.
pub struct Answer {
    /// As 200.
    pub status: u16,
    /// Its type.
    pub mime: &'static str,
    /// What is said.
    pub body: Body,
}

/// What is said.
pub enum Body {
    /// All at once.
    Whole(Vec<u8>),
    /// Piece by piece, until there is no next.
    Pieces(Box<dyn Iterator<Item = Vec<u8>> + Send>),
}

impl Answer {
    /// `body`, with 200.
    pub fn ok(mime: &'static str, body: Vec<u8>) -> Self {
        Self {
            status: 200,
            mime,
            body: Body::Whole(body),
        }
    }

    /// A line for people, with another status.
    pub fn error(status: u16, text: &str) -> Self {
        Self {
            status,
            mime: "text/plain; charset=utf-8",
            body: Body::Whole(format!("{text}\n").into_bytes()),
        }
    }
}

/// What every answer says to the browser: nothing from elsewhere, nothing to elsewhere, nothing kept.
const HEADERS: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' \
blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
Cross-Origin-Opener-Policy: same-origin\r\nCache-Control: no-store\r\n";

/// The connections that are open, by number.
#[derive(Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Connection>,
}

struct Connection {
    stream: Arc<TcpStream>,
    /// Since when it waits for a request or the rest of one; `None` while it is answered.
    waits: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers what comes to `listener` by `handle`, from threads; bodies have at most `longest` bytes. It does not return.
///
/// # Errors
/// Where the first thread cannot be started.
pub fn listen(
    listener: TcpListener,
    longest: usize,
    handle: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Result<()> {
    let handle = Arc::new(handle);
    let open = Arc::new(Mutex::new(Open::default()));
    let accept = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // As with no descriptor left: others have to end first.
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let stream = Arc::new(stream);
            let Some(number) = admit(&open, &stream) else {
                let busy = Answer::error(503, "too many connections");
                let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
                let _ = write(&stream, busy, false, true);
                continue;
            };
            let (ours, handle) = (open.clone(), handle.clone());
            let serve = move || {
                let (ours, handle) = (&*ours, &*handle);
                // What a panic of one request would leave behind is gone with its connection.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    connection(&stream, longest, handle, |waits| {
                        if let Some(connection) = lock(ours).all.get_mut(&number) {
                            connection.waits = waits;
                        }
                    });
                }));
                let _ = stream.shutdown(Shutdown::Both);
                lock(ours).all.remove(&number);
            };
            let thread = std::thread::Builder::new().stack_size(STACK).spawn(serve);
            if thread.is_err() {
                lock(&open).all.remove(&number);
            }
        }
    };
    std::thread::Builder::new()
        .name("accept".to_string())
        .spawn(accept)
        .context("no thread can be started for the page")?;
    Ok(())
}

/// The number of a new connection; where there are too many, one that waits is closed first.
fn admit(open: &Mutex<Open>, stream: &Arc<TcpStream>) -> Option<u64> {
    let mut open = lock(open);
    if open.all.len() >= MOST {
        let waiting = open.all.iter().filter_map(|(&k, c)| Some((c.waits?, k)));
        let (_, oldest) = waiting.min()?;
        let closed = open.all.remove(&oldest)?;
        let _ = closed.stream.shutdown(Shutdown::Both);
    }
    let number = open.next;
    open.next += 1;
    let connection = Connection {
        stream: stream.clone(),
        waits: Some(Instant::now()),
    };
    open.all.insert(number, connection);
    Some(number)
}

/// Answers the requests of one connection.
fn connection(
    stream: &TcpStream,
    longest: usize,
    handle: &impl Fn(&Request) -> Answer,
    waits: impl Fn(Option<Instant>),
) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let mut read = Vec::new();
    loop {
        waits(Some(Instant::now()));
        let request = match receive(stream, &mut read, longest) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err((status, text)) => {
                let _ = write(stream, Answer::error(status, text), false, true);
                drain(stream);
                return;
            }
        };
        waits(None);
        let close = request
            .headers
            .get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let answer = handle(&request);
        let close = close || matches!(answer.body, Body::Pieces(_));
        let head = request.method == Method::Head;
        drop(request);
        if write(stream, answer, head, close).is_err() || close {
            return;
        }
    }
}

/// Reads on for a moment what a refused request still sends: closing at once could take the answer away from it.
fn drain(mut stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let end = Instant::now() + Duration::from_millis(300);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    let mut bytes = [0; 4096];
    while Instant::now() < end && stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
}

type Refusal = (u16, &'static str);

/// One more piece of what is sent, by `deadline`. 0 at its end.
fn more(mut stream: &TcpStream, into: &mut Vec<u8>, deadline: Instant) -> Result<usize, Refusal> {
    const LATE: Refusal = (408, "the request took too long");
    let mut bytes = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LATE);
        }
        let _ = stream.set_read_timeout(Some(left));
        match stream.read(&mut bytes) {
            Ok(n) => {
                into.extend_from_slice(&bytes[..n]);
                return Ok(n);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(LATE);
            }
            Err(_) => return Ok(0),
        }
    }
}

/// The next request; `None` where there is none to come. `read` has what was read beyond the last one.
fn receive(
    stream: &TcpStream,
    read: &mut Vec<u8>,
    longest: usize,
) -> Result<Option<Request>, Refusal> {
    if read.is_empty() && more(stream, read, Instant::now() + IDLE).unwrap_or(0) == 0 {
        return Ok(None);
    }
    let deadline = Instant::now() + PATIENCE;
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if read.len() > LONGEST_HEAD {
            return Err((431, "the headers are too long"));
        }
        if more(stream, read, deadline)? == 0 {
            return Ok(None);
        }
    };
    if end > LONGEST_HEAD {
        return Err((431, "the headers are too long"));
    }
    let rest = read.split_off(end + 4);
    let head = std::mem::replace(read, rest);
    let mut request = parse(&head[..end])?;
    let length = length(&request.headers, request.method)?;
    if length > longest {
        return Err((413, "the body is too long"));
    }
    let expects = request.headers.get("expect");
    if expects.is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        let mut stream = stream;
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let deadline = Instant::now() + PATIENCE;
    while read.len() < length {
        if more(stream, read, deadline)? == 0 {
            return Ok(None);
        }
    }
    let rest = read.split_off(length);
    request.body = std::mem::replace(read, rest);
    Ok(Some(request))
}

/// A request's line and headers.
fn parse(head: &[u8]) -> Result<Request, Refusal> {
    const BAD: Refusal = (400, "this is not an HTTP request");
    let head = std::str::from_utf8(head).map_err(|_| BAD)?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (first.next(), first.next(), first.next(), first.next())
    else {
        return Err(BAD);
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !target.starts_with('/') {
        return Err(BAD);
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        _ => return Err((405, "only GET, HEAD and POST")),
    };
    let mut headers = HashMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(BAD)?;
        if name.is_empty() || name.contains([' ', '\t']) || line.contains(['\r', '\n', '\0']) {
            return Err(BAD);
        }
        let entry = headers.entry(name.to_ascii_lowercase());
        let value = value.trim();
        entry
            .and_modify(|there: &mut String| {
                there.push(',');
                there.push_str(value);
            })
            .or_insert_with(|| value.to_string());
    }
    if version == "HTTP/1.0" {
        headers.insert("connection".to_string(), "close".to_string());
    }
    Ok(Request {
        method,
        path: target.split('?').next().unwrap_or_default().to_string(),
        headers,
        body: Vec::new(),
    })
}

/// How many bytes of a body follow.
fn length(headers: &HashMap<String, String>, method: Method) -> Result<usize, Refusal> {
    if headers.contains_key("transfer-encoding") {
        return Err((501, "bodies need a length"));
    }
    match headers.get("content-length") {
        None if method == Method::Post => Err((411, "bodies need a length")),
        None => Ok(0),
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            // What does not fit is too long in any case.
            Ok(text.parse().unwrap_or(usize::MAX))
        }
        Some(_) => Err((400, "this is not a length")),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Bad Request",
    }
}

/// Writes `answer`, or its head alone.
fn write(mut stream: &TcpStream, answer: Answer, head: bool, close: bool) -> std::io::Result<()> {
    let (status, mime) = (answer.status, answer.mime);
    let mut bytes = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {mime}\r\n{HEADERS}",
        reason(status)
    )
    .into_bytes();
    if status == 405 {
        bytes.extend(b"Allow: GET, HEAD, POST\r\n");
    }
    if close {
        bytes.extend(b"Connection: close\r\n");
    }
    match answer.body {
        Body::Whole(body) => {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            if !head {
                bytes.extend(body);
            }
            stream.write_all(&bytes)
        }
        // It ends with the connection.
        Body::Pieces(pieces) => {
            bytes.extend(b"\r\n");
            stream.write_all(&bytes)?;
            if !head {
                for piece in pieces {
                    stream.write_all(&piece)?;
                }
            }
            Ok(())
        }
    }
}
