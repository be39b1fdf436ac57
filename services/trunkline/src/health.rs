//! `trunkline health`: asks a process of this machine how it is, so that an image needs no other program to check itself.
//!
//! Owns: one request to an admin listener and what its answer means. Must not know: what makes a process ready.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use chassis::{admin, entry};
use clap::Args;

use crate::process::Failure;

pub(crate) const EXAMPLES: &str = "\
Examples:
  trunkline health
      Whether the process with admin.listen = \"127.0.0.1:9090\" is ready; exit code 0 if it is, 1 if it is not
  trunkline health 127.0.0.1:9191 --path /livez
      Whether another one lives";

const PATIENCE: Duration = Duration::from_secs(3);
/// Longer answers are not read to their end.
const MOST: u64 = 64 * 1024;

/// Arguments of `health`.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Where its admin listener is.
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:9090")]
    admin: String,
    /// What to ask for.
    #[arg(long, default_value = "/readyz", value_parser = admin::PATHS)]
    path: String,
}

/// Prints the answer. Fails unless it is that all is well.
pub(crate) fn run(asked: &Health) -> Result<(), Failure> {
    let failed = |why: String| Failure::failed(format!("{}: {why}", asked.admin));
    let answer = ask(asked).map_err(|error| failed(error.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    entry::print(body.trim_end()).map_err(Failure::failed)?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "200" { Ok(()) } else { Err(failed(format!("status {status}"))) }
}

fn ask(asked: &Health) -> io::Result<String> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "no such host");
    let address = asked.admin.to_socket_addrs()?.next().ok_or_else(none)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one write: each part of a `write!` would be a packet of its own.
    let request =
        format!("GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", asked.path, asked.admin);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What `health` says to a listener that answers so.
    fn told(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let asked =
            Health { admin: listener.local_addr().expect("an address").to_string(), path: "/readyz".into() };
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let mut reader = BufReader::new(stream);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut request).expect("a line") > 0, "{request}");
            }
            reader.into_inner().write_all(answer.as_bytes()).expect("taken");
            request
        });
        let outcome = run(&asked).map_err(|failure| failure.to_string());
        assert!(server.join().expect("served").starts_with("GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:"));
        outcome
    }

    #[test]
    fn ready_is_well_and_everything_else_is_not() {
        assert_eq!(told("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"), Ok(()));
        let refused = told("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready\n").unwrap_err();
        assert!(refused.ends_with("status 503"), "{refused}");
        assert!(told("").is_err());
    }

    #[test]
    fn nobody_there_is_not_well() {
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let asked = Health { admin: gone.expect("an address").to_string(), path: "/livez".into() };
        assert!(run(&asked).is_err());
    }
}
