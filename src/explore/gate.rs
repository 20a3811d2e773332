//! What the servers of both pages do alike: who may ask for anything at all (the page that this program serves, by its
//! own address), and what is answered with files and with bytes that another thread makes.

use std::sync::mpsc::{SyncSender, sync_channel};

use crate::explore::http::{Answer, Method, Request};

/// A file of a page: its name, its type and its text.
pub type File = (&'static str, &'static str, &'static str);

/// What the thread that computes answers: bytes, or why there are none.
pub type Made = Result<Vec<u8>, String>;

/// What every request has to pass.
pub struct Gate {
    /// What nobody guesses.
    pub token: String,
    /// Of this server.
    pub port: u16,
}

impl Gate {
    /// What a request asks for below `/TOKEN/`, where it may ask and that is no file of `page`.
    ///
    /// # Errors
    /// What it is answered otherwise: the file, or that it may not.
    pub fn name<'a>(&self, request: &'a Request, page: &[File]) -> Result<&'a str, Answer> {
        if !self.is_ours(request) {
            return Err(Answer::error(
                403,
                "requests of other pages and by other names are refused",
            ));
        }
        let below = request
            .path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'));
        match below {
            Some((token, name)) if same(token.as_bytes(), self.token.as_bytes()) => {
                file(page, name, request.method).map_or(Ok(name), Err)
            }
            _ => Err(not_found()),
        }
    }

    /// Whether the browser means this server, and the page that asks is its own. A page of elsewhere can neither send a
    /// name that we do not have nor hide where it comes from.
    fn is_ours(&self, request: &Request) -> bool {
        let names = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", self.port));
        let header = |name: &str| request.headers.get(name);
        let host = header("host")
            .is_some_and(|host| names.iter().any(|name| host.eq_ignore_ascii_case(name)));
        let origin = header("origin").is_none_or(|origin| {
            names
                .iter()
                .any(|name| origin.eq_ignore_ascii_case(&format!("http://{name}")))
        });
        let site = header("sec-fetch-site")
            .is_none_or(|site| matches!(site.as_str(), "same-origin" | "none"));
        host && origin && site
    }
}

/// The file `name` of a page, where there is one.
fn file(page: &[File], name: &str, method: Method) -> Option<Answer> {
    let (_, mime, text) = page.iter().find(|(known, ..)| *known == name)?;
    Some(match method {
        Method::Post => Answer::error(405, "this is only read"),
        _ => Answer::ok(mime, text.as_bytes().to_vec()),
    })
}

/// The bytes that the thread behind `jobs` makes; `job` is told where they go.
pub fn made<J>(jobs: &SyncSender<J>, job: impl FnOnce(SyncSender<Made>) -> J) -> Answer {
    let (reply, answer) = sync_channel(1);
    if jobs.send(job(reply)).is_err() {
        return ended();
    }
    match answer.recv() {
        Ok(Ok(bytes)) => Answer::ok("application/octet-stream", bytes),
        Ok(Err(text)) => Answer::error(500, &text),
        Err(_) => ended(),
    }
}

/// Where nothing computes any more.
pub fn ended() -> Answer {
    Answer::error(503, "this server has ended")
}

/// Of what there is not.
pub fn not_found() -> Answer {
    Answer::error(
        404,
        "there is nothing here: open the address that the program printed",
    )
}

/// Whether two words are the same, in a time that does not say where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
