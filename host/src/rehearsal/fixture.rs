//! Finding and reading fixture files, and what a manifest says about them.

use std::fs;
use std::path::{Path, PathBuf};

use super::RehearsalError;
use super::typed::{Case, TypedFixture};
use crate::manifest::{Handler, Manifest};

/// The folder beside the manifest where fixtures are looked for.
const FOLDER: &str = "fixtures";

/// A file of cases, and the handler that they are for.
pub(super) struct Fixture {
    pub(super) path: PathBuf,
    /// Its place among the manifest's handlers.
    pub(super) handler: usize,
    pub(super) cases: Vec<Case>,
}

/// Which fixtures are to be run.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Files, and folders of files; without any, the folder `fixtures` beside the manifest.
    pub files: Vec<PathBuf>,
    /// The names of handlers; without any, all of the manifest's.
    pub handlers: Vec<String>,
}

/// Reads every fixture that is wanted.
pub(super) fn read(manifest: &Manifest, wanted: &Wanted) -> Result<Vec<Fixture>, RehearsalError> {
    for name in &wanted.handlers {
        if manifest.handler(name).is_none() {
            return Err(RehearsalError::NoSuchHandler {
                place: "--handler".to_owned(),
                name: name.clone(),
                known: names(manifest),
            });
        }
    }
    let beside = manifest.path.parent().unwrap_or(Path::new("")).join(FOLDER);
    let named = !wanted.files.is_empty();
    let places = if named { wanted.files.clone() } else { vec![beside] };
    let mut fixtures = Vec::new();
    for path in files(&places)? {
        let fixture = one(manifest, wanted, path)?;
        let name = &*manifest.handlers[fixture.handler].name;
        if wanted.handlers.is_empty() || wanted.handlers.iter().any(|wanted| wanted == name) {
            fixtures.push(fixture);
        }
    }
    if fixtures.iter().all(|fixture| fixture.cases.is_empty()) {
        return Err(RehearsalError::Nothing { places, handlers: wanted.handlers.clone() });
    }
    Ok(fixtures)
}

/// The files that are meant, those of a folder in the order of their names.
fn files(places: &[PathBuf]) -> Result<Vec<PathBuf>, RehearsalError> {
    let mut files = Vec::new();
    for place in places {
        if !place.is_dir() {
            // A folder that nobody named need not be there; that nothing was found is told.
            if place.exists() || !place.ends_with(FOLDER) {
                files.push(place.clone());
            }
            continue;
        }
        let listed = fs::read_dir(place).and_then(|listed| {
            listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        });
        let mut listed =
            listed.map_err(|source| RehearsalError::Unreadable { path: place.clone(), source })?;
        listed.retain(|path| path.is_file() && format(path).is_some());
        listed.sort();
        files.extend(listed);
    }
    Ok(files)
}

#[derive(Clone, Copy)]
enum Format {
    Toml,
    Json,
}

fn format(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "toml" => Some(Format::Toml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn one(manifest: &Manifest, wanted: &Wanted, path: PathBuf) -> Result<Fixture, RehearsalError> {
    let unreadable = |source| RehearsalError::Unreadable { path: path.clone(), source };
    let text = fs::read_to_string(&path).map_err(unreadable)?;
    let typed = parse(&path, &text)?;
    let handler = handler(manifest, wanted, &path, typed.handler)?;
    for case in &typed.case {
        check(&path, &manifest.handlers[handler], case)?;
    }
    Ok(Fixture { path, handler, cases: typed.case })
}

/// Reads the text of a fixture file.
pub(super) fn parse(path: &Path, text: &str) -> Result<TypedFixture, RehearsalError> {
    let wrong = |line, column, why: &str| RehearsalError::Wrong {
        path: path.to_owned(),
        line,
        column,
        why: why.to_owned(),
    };
    match format(path) {
        Some(Format::Toml) => toml::from_str(text).map_err(|error| {
            let (line, column) = locate(text, error.span().map_or(0, |span| span.start));
            wrong(line, column, &error.message().replace('\n', ", "))
        }),
        Some(Format::Json) => serde_json::from_str(text).map_err(|error| {
            let said = error.to_string();
            let why = said.rsplit_once(" at line ").map_or(said.as_str(), |(why, _)| why);
            wrong(error.line(), error.column(), why)
        }),
        None => Err(wrong(1, 1, "a fixture's name ends in `.toml` or `.json`")),
    }
}

/// The line and the column of a byte, both from 1.
fn locate(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The handler that a file names, or else the only one that can be meant.
fn handler(
    manifest: &Manifest,
    wanted: &Wanted,
    path: &Path,
    named: Option<String>,
) -> Result<usize, RehearsalError> {
    let place = path.display().to_string();
    let name = match (named, wanted.handlers.as_slice(), manifest.handlers.as_slice()) {
        (Some(name), _, _) => name,
        (None, [only], _) => only.clone(),
        (None, _, [only]) => only.name.to_string(),
        (None, _, _) => return Err(RehearsalError::WhichHandler { place, known: names(manifest) }),
    };
    let at = manifest.handlers.iter().position(|handler| *handler.name == *name);
    at.ok_or_else(|| RehearsalError::NoSuchHandler { place, name, known: names(manifest) })
}

/// Refuses contents of stores that the handler does not have.
fn check(path: &Path, handler: &Handler, case: &Case) -> Result<(), RehearsalError> {
    let keys = case.keyvalue.is_some() || case.expect.keyvalue.is_some();
    let grants = &handler.grants;
    let ungranted = [
        ("keyvalue", keys && grants.keyvalue.is_none()),
        ("config", case.config.is_some() && grants.config.is_none()),
    ];
    match ungranted.iter().find(|(_, missing)| *missing) {
        None => Ok(()),
        Some((grant, _)) => Err(RehearsalError::Ungranted {
            path: path.to_owned(),
            case: case.name.clone(),
            handler: handler.name.clone(),
            grant,
        }),
    }
}

fn names(manifest: &Manifest) -> String {
    let names: Vec<String> =
        manifest.handlers.iter().map(|handler| format!("`{}`", handler.name)).collect();
    names.join(", ")
}
