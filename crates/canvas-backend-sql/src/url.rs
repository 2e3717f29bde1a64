//! Which database a URL names: ours, and those that Celery takes.

use canvas_core::{Error, Result};

/// The language of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    /// MariaDB, too.
    MySql,
    Sqlite,
}

/// A database by its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) dialect: Dialect,
    /// What the driver takes, with the password; for SQLite, the path and what follows
    /// it.
    pub(crate) address: String,
    /// The URL as people may see it: without the password, and without
    /// parameters, which may hold another.
    pub(crate) shown: String,
}

impl Target {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(Error::Config(format!(
                "`{url}` is not the URL of a database: it has no scheme, such as `postgres://`"
            )));
        };
        let (is_celerys, name) = match scheme.strip_prefix("db+") {
            Some(name) => (true, name),
            None => (false, scheme),
        };
        // What follows a plus is the driver that Python is to use.
        let name = name.split('+').next().unwrap_or(name);
        let dialect = match name {
            "postgres" | "postgresql" => Dialect::Postgres,
            "mysql" | "mariadb" => Dialect::MySql,
            "sqlite" => Dialect::Sqlite,
            _ => {
                return Err(Error::UnknownScheme {
                    port: "backend",
                    scheme: scheme.to_owned(),
                    known: "postgres, mysql, mariadb and sqlite, each also as Celery writes it, \
                            as in db+postgresql"
                        .to_owned(),
                });
            }
        };
        if dialect == Dialect::Sqlite {
            return Self::file(scheme, rest, is_celerys);
        }
        let Some(rest) = rest.strip_prefix("//") else {
            return Err(Error::Config(format!(
                "`{scheme}:` needs two slashes and a host after it"
            )));
        };
        let scheme_of_driver = match dialect {
            Dialect::Postgres => "postgres",
            _ => "mysql",
        };
        // PyMySQL's word for it.
        let given = rest.replace("unix_socket=", "socket=");
        Ok(Self {
            dialect,
            address: format!("{scheme_of_driver}://{given}"),
            shown: format!("{scheme}://{}", without_secrets(rest)),
        })
    }

    /// SQLAlchemy has a host before the path, always an empty one; elsewhere
    /// what follows the two slashes is the path.
    fn file(scheme: &str, rest: &str, is_celerys: bool) -> Result<Self> {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let path = match path.strip_prefix('/') {
            Some(path) if is_celerys => path,
            _ => path,
        };
        let plain = path.split('?').next().unwrap_or(path);
        if plain.is_empty() || plain == ":memory:" || path.contains("mode=memory") {
            return Err(Error::Config(format!(
                "`{scheme}:{rest}` names no file: a database in memory would be another one for \
                 each connection. Name a file, or use `memory://`"
            )));
        }
        Ok(Self {
            dialect: Dialect::Sqlite,
            address: path.to_owned(),
            shown: format!("sqlite://{plain}"),
        })
    }
}

fn without_secrets(rest: &str) -> String {
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    match login.split(':').next().unwrap_or(login) {
        "" => place.to_owned(),
        user => format!("{user}@{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    #[test]
    fn urls_of_celery_and_ours_name_the_same_database() {
        for scheme in [
            "postgres",
            "postgresql",
            "db+postgresql",
            "db+postgresql+psycopg2",
        ] {
            let found = target(&format!("{scheme}://me:secret@db:5433/shop"));
            assert_eq!(found.dialect, Dialect::Postgres);
            assert_eq!(found.address, "postgres://me:secret@db:5433/shop");
        }
        for scheme in ["mysql", "mariadb", "db+mysql+pymysql"] {
            let found = target(&format!("{scheme}://me@db/shop?unix_socket=/run/s"));
            assert_eq!(found.dialect, Dialect::MySql);
            assert_eq!(found.address, "mysql://me@db/shop?socket=/run/s");
        }
    }

    #[test]
    fn a_path_is_as_whoever_wrote_it_means_it() {
        assert_eq!(target("sqlite://results.db").address, "results.db");
        assert_eq!(
            target("sqlite:///var/results.db").address,
            "/var/results.db"
        );
        assert_eq!(
            target("sqlite:results.db?mode=rw").address,
            "results.db?mode=rw"
        );
        assert_eq!(target("db+sqlite:///results.db").address, "results.db");
        assert_eq!(
            target("db+sqlite:////var/results.db").address,
            "/var/results.db"
        );
    }

    #[test]
    fn a_database_in_memory_is_refused() {
        for url in ["sqlite://", "sqlite::memory:", "db+sqlite:///:memory:"] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains("memory://"), "{error}");
        }
    }

    #[test]
    fn nobody_sees_the_password() {
        let found = target("db+postgresql://me:pass@word@db/shop?password=other");
        assert_eq!(found.shown, "db+postgresql://me@db/shop");
        assert_eq!(target("mysql:///shop").shown, "mysql:///shop");
    }

    #[test]
    fn another_scheme_is_told_what_there_is() {
        let error = Target::parse("mongodb://db").unwrap_err().to_string();
        assert!(error.contains("postgres, mysql"), "{error}");
        assert!(Target::parse("results.db").is_err());
    }
}
