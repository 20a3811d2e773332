//! The page of `explore` over HTTP: what it answers, whom it refuses, and that nothing holds it up.

#[path = "../training/mod.rs"]
mod training;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use training::{binary, refuses, trained};

/// A running page.
struct Page {
    child: Child,
    port: u16,
    token: String,
    /// What it says when something goes wrong, once it has ended.
    complaints: Option<JoinHandle<String>>,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(complaints) = self.complaints.take()
            && !std::thread::panicking()
        {
            let text = complaints.join().unwrap();
            assert!(!text.contains("panicked"), "{text}");
        }
    }
}

fn explore() -> Command {
    let mut command = binary();
    command
        .args(["explore", "--device", "cpu", "--checkpoint"])
        .arg(trained().join("run"));
    command
}

impl Page {
    fn start() -> Self {
        Self::of(&mut explore())
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let complaints = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with("http://127.0.0.1:"))
            .unwrap();
        // It may print on.
        std::thread::spawn(move || lines.for_each(drop));
        let (port, token) = line["http://127.0.0.1:".len()..].split_once('/').unwrap();
        Self {
            port: port.parse().unwrap(),
            token: token.trim_end_matches('/').to_string(),
            child,
            complaints: Some(complaints),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // It may have been refused before all was sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// The status of an answer, and all of it.
    fn ask(&self, method: &str, path: &str, more: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n{more}",
            self.port
        );
        if method == "POST" {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        let answer = self.raw(&[request.as_bytes(), b"\r\n", body].concat());
        (status(&answer), answer)
    }

    fn path(&self, name: &str) -> String {
        format!("/{}/{name}", self.token)
    }

    fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
    text.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    &answer[end + 4..]
}

/// A circle on paper, a byte a pixel.
fn circle(side: usize) -> Vec<u8> {
    let middle = side as f64 / 2.0;
    let line = |at: usize| {
        let (x, y) = ((at % side) as f64, (at / side) as f64);
        ((x - middle).hypot(y - middle) - middle / 2.0).abs() < 1.5
    };
    (0..side * side)
        .map(|at| if line(at) { 0 } else { 255 })
        .collect()
}

#[test]
fn a_generator_of_edges_has_a_page_to_draw_on() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let train = binary()
        .args([
            "train",
            "--dataset=synthetic",
            "--synthetic-count=8",
            "--condition=edges",
        ])
        .args([
            "--image-size=32",
            "--width=2",
            "--batch-size=4",
            "--steps=1",
            "--quiet",
        ])
        .args(["--device=cpu", "--out"])
        .arg(&run)
        .output()
        .unwrap();
    assert!(train.status.success(), "{}", training::stderr(&train));
    let explore = |more: &[&str]| {
        let mut command = binary();
        command.args(["explore", "--device=cpu", "--checkpoint"]);
        command.arg(&run).args(more).current_dir(root.path());
        command
    };
    let refused = explore(&["--share=x.html"]).output().unwrap();
    refuses(&refused, 1, &["run", "--share"]);
    let page = Page::of(&mut explore(&[]));
    let (ok, answer) = page.ask("GET", &page.path(""), "", b"");
    assert_eq!(ok, 200);
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("Content-Security-Policy") && text.contains("id=\"drawing\""));
    for name in ["style.css", "draw.css", "draw.js"] {
        assert_eq!(page.ask("GET", &page.path(name), "", b"").0, 200, "{name}");
    }
    let (ok, answer) = page.ask("GET", &page.path("model.json"), "", b"");
    assert!(ok == 200 && body(&answer).starts_with(b"{\"size\":32"));
    // The image is that of `translate`.
    let (ok, answer) = page.ask("POST", &page.path("image"), "", &circle(128));
    assert_eq!(ok, 200);
    let drawn = body(&answer).to_vec();
    image::GrayImage::from_raw(128, 128, circle(128))
        .unwrap()
        .save(root.path().join("circle.png"))
        .unwrap();
    let translated = binary()
        .args([
            "translate",
            "--device=cpu",
            "--out=made",
            "circle.png",
            "--checkpoint",
        ])
        .arg(&run)
        .current_dir(root.path())
        .output()
        .unwrap();
    assert!(translated.status.success());
    let made = image::open(root.path().join("made/circle.png")).unwrap();
    assert_eq!(made.into_rgba8().into_raw(), drawn);
    // The edges of a photograph.
    let photograph: Vec<u8> = (0..32 * 32)
        .flat_map(|at| [if at % 32 < 16 { 40 } else { 200 }; 3])
        .collect();
    let (ok, answer) = page.ask("POST", &page.path("edges"), "", &photograph);
    assert_eq!(ok, 200);
    assert_eq!(
        body(&answer),
        dcgan_cuda::data::edges::edges(&photograph, 32, 3)
    );
    for (name, bytes, status) in [
        ("image", vec![255; 64 * 64], 400),
        ("image", vec![0; 63], 400),
        ("image", Vec::new(), 400),
        ("edges", vec![0; 32 * 32], 400),
        ("else", vec![0], 404),
    ] {
        let answered = page.ask("POST", &page.path(name), "", &bytes).0;
        assert_eq!(answered, status, "{name} of {} bytes", bytes.len());
    }
    assert_eq!(page.ask("GET", &page.path("image"), "", b"").0, 405);
    assert_eq!(page.ask("GET", "/0123/", "", b"").0, 404);
    let foreign = "Origin: http://elsewhere.example\r\n";
    assert_eq!(
        page.ask("POST", &page.path("image"), foreign, &circle(64))
            .0,
        403
    );
}

/// Of the tiny run.
const LATENT: usize = 10;
const SIZE: usize = 32;

fn vector(value: f32) -> Vec<u8> {
    value.to_le_bytes().repeat(LATENT)
}

#[test]
fn the_page_draws_what_sample_draws_and_refuses_others() {
    let page = Page::start();
    let (ok, answer) = page.ask("GET", &page.path(""), "", b"");
    assert_eq!(ok, 200);
    let head = String::from_utf8_lossy(&answer).into_owned();
    for part in ["default-src 'none'", "nosniff", "no-store", "no-referrer"] {
        assert!(head.contains(part), "{head}");
    }
    for name in ["app.js", "latent.js", "style.css", "model.json"] {
        assert_eq!(page.ask("GET", &page.path(name), "", b"").0, 200, "{name}");
        let (code, answer) = page.ask("HEAD", &page.path(name), "", b"");
        assert_eq!((code, body(&answer).len()), (200, 0), "{name}");
    }
    // One picture and several are the same, whoever asks with them.
    let (_, one) = page.ask("POST", &page.path("images"), "", &vector(0.5));
    assert_eq!(body(&one).len(), SIZE * SIZE * 4);
    let many = [vector(0.5), vector(-0.5), vector(0.0)].concat();
    let (_, three) = page.ask("POST", &page.path("images"), "", &many);
    assert_eq!(body(&three).len(), 3 * SIZE * SIZE * 4);
    assert_eq!(&body(&three)[..SIZE * SIZE * 4], body(&one));

    let post =
        |more: &str, name: &str, bytes: &[u8]| page.ask("POST", &page.path(name), more, bytes).0;
    let nan = vector(f32::NAN);
    for bytes in [
        &b""[..],
        b"abc",
        &nan,
        &vector(1e30),
        &vector(0.0).repeat(33)[..],
    ] {
        assert!(matches!(post("", "images", bytes), 400 | 413));
    }
    assert_eq!(post("", "invert", &[0; 7]), 400);
    assert_eq!(post("", "images", &vec![0; 1 << 20]), 413);
    assert_eq!(post("", "app.js", b""), 405);
    // Other pages, other names, other paths.
    let own = format!(
        "Origin: http://127.0.0.1:{}\r\nSec-Fetch-Site: same-origin\r\n",
        page.port
    );
    assert_eq!(post(&own, "images", &vector(0.0)), 200);
    for more in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(post(more, "images", &vector(0.0)), 403, "{more}");
    }
    for host in ["evil.example", "127.0.0.1", "127.0.0.1:1", ""] {
        let request = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n\r\n", page.path(""));
        assert_eq!(status(&page.raw(request.as_bytes())), 403, "{host}");
    }
    let paths = [
        "/",
        "/favicon.ico",
        "/x/",
        "/../etc/passwd",
        &page.path("../../etc/passwd"),
        &page.path("%2e%2e"),
    ];
    for path in paths {
        assert_eq!(page.ask("GET", path, "", b"").0, 404, "{path}");
    }
    for method in ["PUT", "DELETE", "OPTIONS", "CONNECT", "get"] {
        assert_eq!(page.ask(method, &page.path(""), "", b"").0, 405, "{method}");
    }
    for (request, code) in [
        ("nonsense\r\n\r\n".to_string(), 400),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000)),
            431,
        ),
        ("POST / HTTP/1.1\r\n\r\n".to_string(), 411),
        (
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_string(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_string(),
            400,
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
                "9".repeat(40)
            ),
            413,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_string(),
            501,
        ),
    ] {
        assert_eq!(status(&page.raw(request.as_bytes())), code, "{request:.60}");
    }
}

#[test]
fn a_photograph_is_found_while_sliders_move() {
    let page = Page::start();
    let (_, picture) = page.ask("POST", &page.path("images"), "", &vector(0.7));
    let rgb: Vec<u8> = body(&picture)
        .chunks(4)
        .flat_map(|p| p[..3].to_vec())
        .collect();
    let mut stream = page.connect();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: {}\r\n\r\n",
        page.path("invert"),
        page.port,
        rgb.len()
    );
    stream.write_all(&[head.as_bytes(), &rgb].concat()).unwrap();
    assert_eq!(
        page.ask("POST", &page.path("images"), "", &vector(0.1)).0,
        200
    );
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let last = answer.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["z"].as_array().unwrap().len(), LATENT);
    assert!(last["psnr"].as_f64().unwrap() > 20.0, "{last}");
}

#[test]
fn neither_half_requests_nor_many_clients_hold_it_up_and_a_signal_ends_it() {
    let mut page = Page::start();
    // More than it has room for.
    let halves: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = page.connect();
            stream.write_all(b"POST /x HTTP/1.1\r\nContent-").unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let (code, answer) = page.ask("POST", &page.path("images"), "", &vector(0.2));
                    assert_eq!((code, body(&answer).len()), (200, SIZE * SIZE * 4));
                }
            });
        }
    });
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    drop(halves);
    // Requests of one connection, one behind the other.
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        page.path("x"),
        page.port
    );
    let many = |count: usize| page.raw(request.repeat(count).as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&many(50))
            .matches("HTTP/1.1 404")
            .count(),
        50
    );
    let before = page.resident();
    for _ in 0..20 {
        many(250);
    }
    let grown = page.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more after 5,000 requests");

    let idle = page.connect();
    let signal = Command::new("kill")
        .args(["-INT", &page.child.id().to_string()])
        .status();
    assert!(signal.unwrap().success());
    let began = Instant::now();
    assert_eq!(page.child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_millis(500));
    drop(idle);
}

#[test]
fn whatever_is_sent_it_goes_on() {
    let page = Page::start();
    let piece = prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"POST ".to_vec()),
        Just(page.path("images").into_bytes()),
        Just(b" HTTP/1.1\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"Content-Length: 40\r\n".to_vec()),
        Just(b"Expect: 100-continue\r\n".to_vec()),
        Just(format!("Host: localhost:{}\r\n", page.port).into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..60),
    ];
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(pieces in proptest::collection::vec(piece, 0..12))| {
        let answer = page.raw(&pieces.concat());
        prop_assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
    });
    assert_eq!(page.ask("GET", &page.path(""), "", b"").0, 200);
}

#[test]
fn bad_input_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let with = |args: &[&str]| explore().args(args).output().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refuses(
        &with(&["--port", &port]),
        1,
        &["--port", &port, "leave --port out"],
    );
    refuses(
        &with(&["--directions", "nowhere.safetensors"]),
        1,
        &["nowhere.safetensors"],
    );
    let file = folder.path().join("face.html");
    let file = file.to_str().unwrap();
    refuses(
        &with(&["--share", "face.png"]),
        1,
        &["--share face.png", ".html"],
    );
    let shared = with(&["--share", file]);
    assert_eq!(
        shared.status.code(),
        Some(0),
        "{}",
        training::stderr(&shared)
    );
    let html = fs::read_to_string(file).unwrap();
    for part in [
        "id=\"weights\"",
        "Content-Security-Policy",
        "function localEngine",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for part in ["src=\"", "href=\"style.css\"", "<!-- "] {
        assert!(!html.contains(part), "{part}");
    }
    refuses(&with(&["--share", file]), 1, &["face.html"]);
}
