//! Where the workspace is and what it is made of.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::run::cargo;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A crate of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The directory.
    pub(crate) path: PathBuf,
    /// The features, `default` left out.
    pub(crate) features: Vec<String>,
    /// What it needs from the workspace, development aside.
    pub(crate) needs: Vec<String>,
}

/// The crates of the workspace.
pub(crate) fn packages() -> Result<Vec<Package>, String> {
    let metadata = metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    Ok(packages.iter().map(package).collect())
}

/// Where cargo builds.
pub(crate) fn target() -> Result<PathBuf, String> {
    let metadata = metadata()?;
    Ok(text(&metadata["target_directory"]).into())
}

fn metadata() -> Result<Value, String> {
    let output = cargo("metadata --no-deps --format-version 1")
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))
}

fn package(package: &Value) -> Package {
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let features = package["features"].as_object().into_iter().flatten();
    let needs = package["dependencies"].as_array().into_iter().flatten();
    Package {
        name: text(&package["name"]),
        version: text(&package["version"]),
        path: manifest.parent().map(Path::to_path_buf).unwrap_or_default(),
        features: features
            .map(|(name, _)| name.clone())
            .filter(|name| name != "default")
            .collect(),
        needs: needs
            .filter(|need| need["path"].is_string() && need["kind"] != "dev")
            .map(|need| text(&need["name"]))
            .collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
