//! TLS, with certificates that are made for the test.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use canvas::{Backend, Broker, Canvas, Error, Id};
use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_tests::redis_server::{RedisServer, plain};
use canvas_tests::support::{add, builder, value, work};
use serde_json::json;

/// Two authorities, and what the first has signed: `server`, for `localhost`
/// only, and `client`.
static CERTIFICATES: LazyLock<PathBuf> = LazyLock::new(|| {
    const MAKE: &str = r#"
        set -e
        key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }
        for ca in ca other; do
            key $ca
            openssl req -x509 -new -key $ca.key -days 2 -subj /CN=$ca -out $ca.crt
        done
        echo subjectAltName=DNS:localhost > names
        for name in server client; do
            key $name
            openssl req -new -key $name.key -subj /CN=$name -out $name.csr
            openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
                -days 2 -extfile names -out $name.crt
        done
    "#;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let mut make = Command::new("sh");
    let made = make.args(["-c", MAKE]).current_dir(&folder).output();
    let made = made.unwrap();
    assert!(
        made.status.success(),
        "these tests need openssl (apt-get install -y openssl): {}",
        String::from_utf8_lossy(&made.stderr)
    );
    folder
});

fn file(name: &str) -> String {
    CERTIFICATES.join(name).display().to_string()
}

/// A server with TLS, which asks for a client's certificate or does not.
fn server(asks_clients: bool) -> RedisServer {
    RedisServer::with(|_, port| {
        let asks = if asks_clients { "yes" } else { "no" };
        let mut arguments = plain(&format!(
            "--port 0 --tls-port {port} --tls-auth-clients {asks}"
        ));
        for (name, file_name) in [
            ("--tls-cert-file", "server.crt"),
            ("--tls-key-file", "server.key"),
            ("--tls-ca-cert-file", "ca.crt"),
        ] {
            arguments.extend([name.to_owned(), file(file_name)]);
        }
        arguments
    })
}

fn url(host: &str, server: &RedisServer, parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().map(|(name, value)| {
        // As Celery's documentation has it.
        format!("{name}={}", value.replace('/', "%2F"))
    });
    let given: Vec<String> = given.collect();
    format!("rediss://{host}:{}/0?{}", server.port(), given.join("&"))
}

/// An application that has its broker and its backend there.
fn app(url: &str) -> Canvas {
    let broker = RedisBroker::new(url, RedisBrokerConfig::default()).unwrap();
    let backend = RedisBackend::new(url, RedisBackendConfig::default()).unwrap();
    assert_eq!(broker.server_id(), backend.server_id());
    builder().broker(broker).backend(backend).build().unwrap()
}

/// Whether a task runs there, and its result comes back.
async fn serves(url: &str) {
    let app = app(url);
    let _worker = work(&app).await;
    let result = app.apply(add(1).arg(2)).await.unwrap();
    assert_eq!(value(&result).await, json!(3), "{url}");
}

/// What the broker and the backend say of a URL that they cannot use.
async fn refused(url: &str) -> String {
    let broker = RedisBroker::new(url, RedisBrokerConfig::default()).unwrap();
    let error = broker.len("celery").await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{url}: {error}");
    let backend = RedisBackend::new(url, RedisBackendConfig::default()).unwrap();
    // At once: patience would change nothing.
    let loaded = backend.load(&[Id::from("1")]).await;
    let other = loaded.unwrap_err();
    assert!(matches!(other, Error::Config(_)), "{url}: {other}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_whose_authority_is_named() {
    let server = server(false);
    serves(&url(
        "localhost",
        &server,
        &[("ssl_ca_certs", &file("ca.crt"))],
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_vouches_for_is_refused_with_a_hint() {
    let server = server(false);
    for authority in [None, Some(file("other.crt"))] {
        let named = authority.as_deref().map(|file| ("ssl_ca_certs", file));
        let named: Vec<_> = named.into_iter().collect();
        let text = refused(&url("localhost", &server, &named)).await;
        assert!(text.contains("check ssl_ca_certs"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_the_certificate_counts_unless_it_is_not_to() {
    let server = server(false);
    let authority = file("ca.crt");
    let mut parameters = vec![("ssl_ca_certs", authority.as_str())];
    let text = refused(&url("127.0.0.1", &server, &parameters)).await;
    assert!(text.contains("not valid for name"), "{text}");
    parameters.push(("ssl_check_hostname", "false"));
    serves(&url("127.0.0.1", &server, &parameters)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_is_trusted_where_nothing_is_required() {
    let server = server(false);
    for none in ["none", "CERT_NONE"] {
        serves(&url("127.0.0.1", &server, &[("ssl_cert_reqs", none)])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_to_a_server_that_asks() {
    let server = server(true);
    let (authority, own, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let mut parameters = vec![("ssl_ca_certs", authority.as_str())];
    let text = refused(&url("localhost", &server, &parameters)).await;
    assert!(text.contains("ssl_certfile"), "{text}");
    parameters.extend([("ssl_certfile", own.as_str()), ("ssl_keyfile", &key)]);
    serves(&url("localhost", &server, &parameters)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_does_not_answer() {
    let server = RedisServer::start();
    let mut config = RedisBrokerConfig::default();
    config.connect_timeout = Duration::from_millis(300);
    let broker = RedisBroker::new(&url("localhost", &server, &[]), config).unwrap();
    let error = broker.len("celery").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let text = error.to_string();
    assert!(text.contains("is the port one for TLS?"), "{text}");
}

#[test]
fn parameters_that_make_no_sense_are_told_before_anything_is_connected() {
    let error = |parameters: &str| {
        let url = format!("rediss://:secret@localhost/0?{parameters}");
        let error = RedisBroker::new(&url, RedisBrokerConfig::default()).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
        error.to_string()
    };
    let table = [
        ("ssl_cert_reqs=maybe", "not `maybe`"),
        (
            "ssl_ca_certs=/nowhere/ca.crt",
            "ssl_ca_certs /nowhere/ca.crt",
        ),
        (
            "ssl_keyfile=/nowhere/own.key",
            "ssl_keyfile /nowhere/own.key",
        ),
    ];
    for (parameters, hint) in table {
        let text = error(parameters);
        assert!(text.contains(hint), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    let names = file("names");
    let text = error(&format!("ssl_ca_certs={names}&ssl_certfile={names}"));
    assert!(text.contains("the files of TLS cannot be used"), "{text}");
}
