//! SQLite: a file that all processes share, which nothing can be done to but to
//! kill those who use it.

use std::io;
use std::path::Path;
use std::process::Command;

use async_trait::async_trait;

use super::sql::{Database, Dialect};
use super::{Kind, Results};

#[derive(Debug)]
pub(super) struct Sqlite {
    database: Database,
}

impl Sqlite {
    pub(super) fn boxed(folder: &Path) -> io::Result<Box<dyn Kind>> {
        let file = std::path::absolute(folder)?.join("results.db");
        Ok(Box::new(Self {
            database: Database {
                dialect: Dialect::Sqlite,
                url: format!("sqlite://{}", file.display()),
            },
        }))
    }
}

#[async_trait]
impl Kind for Sqlite {
    fn url(&self) -> String {
        self.database.url.clone()
    }

    fn command(&self) -> io::Result<Option<Command>> {
        Ok(None)
    }

    async fn ready(&self) -> io::Result<()> {
        Ok(())
    }

    async fn cut(&self) -> io::Result<()> {
        Ok(())
    }

    fn results(&self) -> Option<&dyn Results> {
        Some(&self.database)
    }
}
