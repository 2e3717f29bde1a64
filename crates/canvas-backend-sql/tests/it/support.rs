//! Databases of a test's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use canvas_backend_sql::{SqlBackend, SqlBackendConfig};
use canvas_core::{ExceptionInfo, State, TaskMeta};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::time::Instant;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    MariaDb,
}

/// A database that is empty at first.
pub(crate) struct Db {
    pub(crate) kind: Kind,
    /// Its name on the server, or its folder.
    name: String,
    server: Option<Server>,
    /// Only if the server is the test's own.
    own: bool,
}

impl Db {
    /// A database on the server that the tests of this process share, or a file.
    pub(crate) async fn start(kind: Kind) -> Self {
        let server = match kind {
            Kind::Sqlite => None,
            Kind::Postgres | Kind::MariaDb => Some(Server::shared(kind).await),
        };
        Self::with(kind, server, false).await
    }

    /// A database on a server that this test may end.
    pub(crate) async fn alone(kind: Kind) -> Self {
        let server = Server::new(kind);
        server.ready().await;
        Self::with(kind, Some(server), true).await
    }

    async fn with(kind: Kind, server: Option<Server>, own: bool) -> Self {
        let name = format!("canvas_{:016x}", fastrand::u64(..));
        let db = Self {
            name,
            kind,
            server,
            own,
        };
        match &db.server {
            None => std::fs::create_dir(db.folder()).unwrap(),
            Some(server) => {
                run(
                    kind,
                    &server.url(None),
                    &format!("CREATE DATABASE {}", db.name),
                )
                .await;
            }
        }
        db
    }

    /// Starts the server again, with what it has saved.
    pub(crate) async fn restart(&mut self) {
        assert!(self.own, "others use that server");
        let server = self.server.as_mut().unwrap();
        server.start();
        std::fs::remove_file(server.keep()).unwrap();
        server.ready().await;
    }

    /// Ends the server at once; it keeps what it has saved.
    pub(crate) fn kill(&mut self) {
        assert!(self.own, "others use that server");
        let server = self.server.as_mut().unwrap();
        std::fs::write(server.keep(), "").unwrap();
        server.running = None;
    }

    fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(&self.name)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        match &self.server {
            None => format!("sqlite://{}/results.db", self.folder().display()),
            Some(server) => server.url(Some(&self.name)),
        }
    }

    /// Its URL, as Celery writes it.
    pub(crate) fn celery_url(&self) -> String {
        let folder = match &self.server {
            None => self.folder(),
            Some(server) => server.folder.clone(),
        };
        let (folder, name) = (folder.display(), &self.name);
        match self.kind {
            Kind::Sqlite => format!("db+sqlite:///{folder}/results.db"),
            Kind::Postgres => format!("db+postgresql+psycopg2://postgres@/{name}?host={folder}"),
            Kind::MariaDb => {
                format!("db+mysql+pymysql://root@localhost/{name}?unix_socket={folder}/sock")
            }
        }
    }

    pub(crate) fn backend(&self) -> Arc<SqlBackend> {
        self.backend_with(|_| {})
    }

    pub(crate) fn backend_with(
        &self,
        change: impl FnOnce(&mut SqlBackendConfig),
    ) -> Arc<SqlBackend> {
        let mut config = SqlBackendConfig::default();
        change(&mut config);
        SqlBackend::new(&self.url(), config).unwrap()
    }

    /// Has the database itself do something.
    pub(crate) async fn run(&self, sql: &str) {
        run(self.kind, &self.url(), sql).await;
    }

    /// Asks the database itself for a number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        number(self.kind, &self.url(), sql).await
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.server.is_none() {
            let _ = std::fs::remove_dir_all(self.folder());
        }
    }
}

async fn run(kind: Kind, url: &str, sql: &str) {
    let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    match kind {
        Kind::Sqlite => {
            let url = format!("{url}?mode=rwc");
            let mut on = sqlx::SqliteConnection::connect(&url).await.unwrap();
            query.execute(&mut on).await.unwrap();
            on.close().await.unwrap();
        }
        Kind::Postgres => {
            let mut on = sqlx::PgConnection::connect(url).await.unwrap();
            query.execute(&mut on).await.unwrap();
            on.close().await.unwrap();
        }
        Kind::MariaDb => {
            let mut on = sqlx::MySqlConnection::connect(url).await.unwrap();
            query.execute(&mut on).await.unwrap();
            on.close().await.unwrap();
        }
    }
}

async fn number(kind: Kind, url: &str, sql: &str) -> i64 {
    let sql = AssertSqlSafe(sql.to_owned());
    match kind {
        Kind::Sqlite => {
            let mut on = sqlx::SqliteConnection::connect(url).await.unwrap();
            sqlx::query(sql).fetch_one(&mut on).await.unwrap().get(0)
        }
        Kind::Postgres => {
            let mut on = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query(sql).fetch_one(&mut on).await.unwrap().get(0)
        }
        Kind::MariaDb => {
            let mut on = sqlx::MySqlConnection::connect(url).await.unwrap();
            sqlx::query(sql).fetch_one(&mut on).await.unwrap().get(0)
        }
    }
}

/// A server with a folder, and a socket in it. Both go when the process does,
/// also when it is killed.
struct Server {
    kind: Kind,
    folder: PathBuf,
    running: Option<Running>,
}

struct Running {
    /// A shell that ends the server once its own input is closed.
    shell: Child,
    stdin: Option<ChildStdin>,
}

/// Makes the data, if there is none yet; runs the server until our end of the
/// pipe closes, which it also does when a test is killed: what ends the test from
/// the terminal must not end this before it has cleaned up. PostgreSQL refuses
/// root, so then it runs as its own user.
const POSTGRES: &str = r#"
    trap '' HUP INT TERM
    umask 022
    AS=""
    if [ "$(id -u)" = 0 ]; then
        AS="setpriv --reuid=postgres --regid=postgres --clear-groups"
        chown postgres: "$1"
    fi
    cd "$1"
    [ -d data ] || $AS "$2/initdb" -D data -A trust -U postgres --no-sync -E UTF8 --locale=C >log 2>&1
    $AS "$2/postgres" -D data -k "$1" -c listen_addresses= -c max_connections=400 \
        -c shared_buffers=32MB >>log 2>&1 &
    echo started; cat; kill -QUIT $!; wait
    [ -e keep ] || rm -rf "$1"
"#;

const MARIADB: &str = r#"
    trap '' HUP INT TERM
    cd "$1"
    AS=""
    [ "$(id -u)" != 0 ] || AS="--user=root"
    [ -d data ] || mariadb-install-db --no-defaults $AS --datadir="$1/data" --skip-test-db \
        --auth-root-authentication-method=normal >log 2>&1
    mariadbd --no-defaults $AS --datadir="$1/data" --skip-networking --socket="$1/sock" \
        --skip-log-bin --max-connections=400 --innodb-buffer-pool-size=64M >>log 2>&1 &
    echo started; cat; kill -9 $!; wait
    [ -e keep ] || rm -rf "$1"
"#;

impl Server {
    /// The one that all tests of this process share.
    async fn shared(kind: Kind) -> Self {
        static POSTGRES: OnceLock<Server> = OnceLock::new();
        static MARIADB: OnceLock<Server> = OnceLock::new();
        let one = match kind {
            Kind::MariaDb => &MARIADB,
            _ => &POSTGRES,
        };
        let one = one.get_or_init(|| Self::new(kind));
        one.ready().await;
        Self {
            kind,
            folder: one.folder.clone(),
            running: None,
        }
    }

    fn new(kind: Kind) -> Self {
        // Short, as the path of a socket must be.
        let name = format!("canvas-{:012x}", fastrand::u64(..1 << 48));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut server = Self {
            kind,
            folder,
            running: None,
        };
        server.start();
        server
    }

    fn start(&mut self) {
        let (script, programs) = match self.kind {
            Kind::MariaDb => {
                let found = Command::new("mariadbd").arg("--version").output();
                assert!(
                    found.is_ok(),
                    "these tests need MariaDB: apt-get install mariadb-server"
                );
                (MARIADB, PathBuf::new())
            }
            _ => (POSTGRES, postgres_programs()),
        };
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([&self.folder, &programs])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = shell.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "started\n", "{}", self.log());
        self.running = Some(Running {
            stdin: shell.stdin.take(),
            shell,
        });
    }

    /// Waits until it answers.
    async fn ready(&self) {
        let url = self.url(None);
        let end = Instant::now() + PATIENCE;
        loop {
            let tried = match self.kind {
                Kind::MariaDb => sqlx::MySqlConnection::connect(&url).await.map(drop),
                _ => sqlx::PgConnection::connect(&url).await.map(drop),
            };
            match tried {
                Ok(()) => return,
                Err(error) => assert!(Instant::now() < end, "{error}: {}", self.log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A file that says that the folder stays.
    fn keep(&self) -> PathBuf {
        self.folder.join("keep")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn url(&self, database: Option<&str>) -> String {
        let folder = self.folder.display();
        match self.kind {
            Kind::MariaDb => format!(
                "mysql://root@localhost/{}?socket={folder}/sock",
                database.unwrap_or("mysql")
            ),
            _ => format!(
                "postgres://postgres@localhost/{}?host={folder}",
                database.unwrap_or("postgres")
            ),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Where Debian has the programs of PostgreSQL, the newest first; else they
/// must be in the path.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let versions = versions.flatten().map(|entry| entry.path().join("bin"));
    let mut found: Vec<PathBuf> = versions.filter(|bin| bin.join("initdb").exists()).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.reverse();
    found.extend(std::env::split_paths(&path).filter(|bin| bin.join("initdb").exists()));
    found
        .into_iter()
        .next()
        .expect("these tests need PostgreSQL: apt-get install postgresql")
}

/// Waits until something is there.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for something, but not for ever.
pub(crate) async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

pub(crate) fn success(id: &str, value: impl Into<Value>) -> TaskMeta {
    let mut meta = TaskMeta::new(id.into(), State::Success);
    meta.result = value.into();
    meta
}

pub(crate) fn failure(id: &str) -> TaskMeta {
    let mut meta = TaskMeta::new(id.into(), State::Failure);
    meta.result = ExceptionInfo::builtin("ValueError", "no").to_value();
    meta
}

/// A folder of this crate's tests.
pub(crate) fn here() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"))
}
