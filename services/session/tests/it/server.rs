//! Redis servers, started on free ports in directories of their own, and ended with the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chassis::metrics::Metrics;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use session::store::{Config, ConnectError, SessionStore, Store};
use tempfile::TempDir;

/// How long anything may take that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How long sessions may be idle in tests.
pub(crate) const IDLE: Duration = Duration::from_secs(1800);

/// One running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    password: Option<String>,
    options: Vec<String>,
    dir: TempDir,
}

impl Server {
    /// Starts one with these options besides the usual ones.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_as(options, None)
    }

    /// The same, for one whose default user has a password.
    pub(crate) fn start_as(options: &[&str], password: Option<&str>) -> Self {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        for _ in 0..5 {
            let (port, dir) = (free_port(), TempDir::new().unwrap());
            if let Some(child) = run(port, &dir, &options) {
                return Self { child, port, password: password.map(str::to_owned), options, dir };
            }
        }
        panic!("redis-server does not start: each of five free ports was taken, or an option is wrong");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let password = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port)).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// Asks it something.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.attempt(command).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    pub(crate) async fn attempt<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query_async(&mut self.connection().await).await
    }

    /// Stops it in the middle of whatever it does.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, with what it wrote down.
    pub(crate) fn restart(&mut self) {
        self.child = run(self.port, &self.dir, &self.options).expect("its port is still free");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Starts a server and waits until it takes connections; `None` if it ends before.
fn run(port: u16, dir: &TempDir, options: &[String]) -> Option<Child> {
    let port = port.to_string();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--loglevel", "notice"]);
    if !options.iter().any(|option| option == "--port") {
        command.args(["--port", &port]);
    }
    let command =
        command.arg("--dir").arg(dir.path()).args(options).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("redis-server cannot be started ({error}); scripts/stores installs it"),
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    if !lines.by_ref().any(|line| line.contains("Ready to accept connections")) {
        child.wait().unwrap();
        return None;
    }
    thread::spawn(move || lines.for_each(drop));
    Some(child)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().local_addr().unwrap().port()
}

/// A file with this text in the server's directory.
pub(crate) fn file(server: &Server, name: &str, text: &str) -> String {
    let path = server.dir().join(name);
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Settings for these servers.
pub(crate) fn config(servers: &[&Server]) -> Config {
    Config { redis: servers.iter().map(|server| server.url()).collect(), ..Config::default() }
}

pub(crate) async fn connect(config: &Config) -> Arc<dyn SessionStore> {
    Store::connect(config, IDLE, &Metrics::default()).await.unwrap()
}

pub(crate) async fn refusal(config: &Config) -> ConnectError {
    Store::connect(config, IDLE, &Metrics::default()).await.err().expect("is refused")
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let waited = tokio::time::timeout(DEADLINE, async {
        while !is().await {
            tick.tick().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn one_server_keeps_the_contract() {
    let server = Server::start(&[]);
    session::store::contract::all(&*connect(&config(&[&server])).await).await;
}

#[tokio::test]
async fn what_is_in_a_server_is_outside_of_every_process() {
    let server = Server::start(&[]);
    let config = config(&[&server]);
    session::store::contract::outside(&*connect(&config).await, &*connect(&config).await).await;
}

#[tokio::test]
async fn a_shared_server_with_users_and_a_prefix_keeps_the_contract() {
    let rule = "user mesh on >s3cret ~ours:* &* -@all +@read +@write +@scripting +role +ping +info +time +wait +hello";
    let server = Server::start_as(&["--requirepass", "other"], Some("other"));
    let words: Vec<&str> = rule.split(' ').skip(1).collect();
    let _: () = server.ask(&[&["ACL", "SETUSER"][..], &words[..]].concat()).await;
    let mine = Config {
        redis: vec![format!("redis://mesh@127.0.0.1:{}", server.port)],
        password_file: file(&server, "password", "s3cret\n"),
        key_prefix: "ours:".into(),
        ..Config::default()
    };
    session::store::contract::all(&*connect(&mine).await).await;
    let keys: Vec<String> = server.ask(&["KEYS", "*"]).await;
    let is_ours = |key: &String| key.starts_with("ours:{s:") || key.starts_with("ours:{mesh}:");
    assert!(keys.iter().all(is_ours), "{keys:?}");
    let text = refusal(&Config { password_file: file(&server, "wrong", "wr0ng"), ..mine }).await.to_string();
    assert!(text.starts_with("store.redis") && !text.contains("wr0ng"), "{text}");
}

#[tokio::test]
async fn a_server_behind_tls_keeps_the_contract() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = TempDir::new().unwrap();
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let port = free_port().to_string();
    let tls = ["--tls-port", &port, "--port", "0", "--tls-cert-file", certificate, "--tls-key-file", key];
    let _server = Server::start(&[&tls[..], &["--tls-auth-clients", "no"]].concat());
    let mine = Config {
        redis: vec![format!("rediss://127.0.0.1:{port}")],
        ca: certificate.to_owned(),
        ..Config::default()
    };
    session::store::contract::all(&*connect(&mine).await).await;
}
