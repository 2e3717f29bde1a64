//! TLS as Celery sets it up: by the parameters `ssl_…` of a URL.

use canvas_core::{Error, Result};
use redis::ConnectionAddr;

use crate::url::{Host, Url};

/// How to speak TLS, with any server.
#[derive(Debug, Clone)]
pub(crate) struct Tls(ConnectionAddr);

impl Tls {
    /// Whether to verify the server's certificate (`ssl_cert_reqs`, which is
    /// `required` unless it is `none`) and the name in it
    /// (`ssl_check_hostname`), against which authorities (`ssl_ca_certs`, those
    /// of the system by default), and what to show the server (`ssl_certfile`
    /// and `ssl_keyfile`).
    ///
    /// # Errors
    /// [`Error::Config`] for a file that cannot be used.
    #[cfg(feature = "tls")]
    pub(crate) fn new(url: &Url) -> Result<Self> {
        use redis::TlsCertificates;
        use redis::{Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo};

        let insecure = match url.asked("ssl_cert_reqs").unwrap_or("required") {
            "CERT_REQUIRED" | "required" | "CERT_OPTIONAL" | "optional" => false,
            "CERT_NONE" | "none" => {
                tracing::warn!(
                    server = url.shown(),
                    "ssl_cert_reqs is none: anyone between here and Redis can read and change all"
                );
                true
            }
            other => {
                return Err(Error::Config(format!(
                    "ssl_cert_reqs must be required, optional or none, not `{other}`"
                )));
            }
        };
        let read = |name: &str| match url.asked(name) {
            None => Ok(None),
            Some(path) => match std::fs::read(path) {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(Error::Config(format!("{name} {path}: {error}"))),
            },
        };
        let client_tls = match (read("ssl_certfile")?, read("ssl_keyfile")?) {
            (None, None) => None,
            // One file may hold both, as in Python.
            (Some(client_cert), key) => Some(ClientTlsConfig {
                client_key: key.unwrap_or_else(|| client_cert.clone()),
                client_cert,
            }),
            (None, Some(_)) => {
                return Err(Error::Config(
                    "ssl_keyfile is of no use without ssl_certfile".to_owned(),
                ));
            }
        };
        use_a_provider();
        let anywhere = ConnectionAddr::TcpTls {
            host: String::new(),
            port: 0,
            insecure,
            tls_params: None,
        };
        let unusable = |error: redis::RedisError| {
            Error::Config(format!("the files of TLS cannot be used: {error}"))
        };
        let info: ConnectionInfo = anywhere.into_connection_info().map_err(unusable)?;
        let certificates = TlsCertificates {
            client_tls,
            root_cert: read("ssl_ca_certs")?,
        };
        let client = Client::build_with_tls(info, certificates).map_err(unusable)?;
        let mut address = client.get_connection_info().addr().clone();
        let checks = url.asked("ssl_check_hostname").unwrap_or("true");
        if checks.eq_ignore_ascii_case("false") {
            address.set_danger_accept_invalid_hostnames(true);
        }
        Ok(Self(address))
    }

    /// # Errors
    /// [`Error::Unsupported`]: it is not compiled in.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn new(url: &Url) -> Result<Self> {
        Err(Error::Unsupported {
            operation: "connect",
            driver: format!("this build, for {}", url.shown()),
            hint: "switch on the feature `redis-tls` of canvas, or `tls` of \
                   canvas-broker-redis and canvas-backend-redis"
                .to_owned(),
        })
    }

    /// The address of a server.
    pub(crate) fn at(&self, host: &Host) -> ConnectionAddr {
        match &self.0 {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: host.name.clone(),
                port: host.port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            other => other.clone(),
        }
    }
}

/// The process may have chosen who does the cryptography; if not, we do. (With
/// two of them compiled in, rustls itself would not choose, but panic.)
#[cfg(feature = "tls")]
fn use_a_provider() {
    use rustls::crypto::{CryptoProvider, ring};
    if CryptoProvider::get_default().is_none() {
        // Fails only if another thread was quicker.
        let _ = ring::default_provider().install_default();
    }
}
