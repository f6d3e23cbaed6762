//! `${env:NAME}` and `${file:PATH}` inside the manifest's strings.
//!
//! What comes out may be a secret, so problems speak of the text as typed only.

use std::env::VarError;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most that `${file:PATH}` reads: a secret or a certificate, not a device that never ends.
const FILE_MAX: u64 = 1024 * 1024;

/// Where interpolated text comes from.
pub trait Environment {
    /// The value of an environment variable.
    ///
    /// # Errors
    ///
    /// If it is not set or not Unicode.
    fn variable(&self, name: &str) -> Result<String, VarError>;

    /// The text of a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is too large or is not UTF-8.
    fn file(&self, path: &Path) -> io::Result<String>;
}

/// The environment of this process and the files it can read.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Result<String, VarError> {
        std::env::var(name)
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1MiB"));
        }
        Ok(text)
    }
}

/// Replaces every `${…}` of `typed`; a `$${` stands for a literal `${`.
///
/// What is put in is not searched again. The error says what is wrong with the
/// text as typed, and never holds anything that was put in.
pub(super) fn interpolate(
    typed: &str,
    directory: &Path,
    environment: &dyn Environment,
) -> Result<String, Vec<String>> {
    let mut text = String::with_capacity(typed.len());
    let mut problems = Vec::new();
    let mut rest = typed;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let reference = &from["${".len()..];
        if let Some(before) = before.strip_suffix('$') {
            text.push_str(before);
            text.push_str("${");
            rest = reference;
            continue;
        }
        text.push_str(before);
        let Some((reference, after)) = reference.split_once('}') else {
            problems.push("`${` has no `}` to close it; write `$${` for a plain `${`".to_owned());
            rest = "";
            break;
        };
        match resolve(reference, directory, environment) {
            Ok(value) => text.push_str(&value),
            Err(problem) => problems.push(problem),
        }
        rest = after;
    }
    text.push_str(rest);
    if problems.is_empty() { Ok(text) } else { Err(problems) }
}

fn resolve(
    reference: &str,
    directory: &Path,
    environment: &dyn Environment,
) -> Result<String, String> {
    match reference.split_once(':') {
        Some((_, "")) | None => Err(unknown(reference)),
        Some(("env", name)) => variable(name, environment),
        Some(("file", path)) => file(path, directory, environment),
        Some(_) => Err(unknown(reference)),
    }
}

fn unknown(reference: &str) -> String {
    format!(
        "expected `${{env:NAME}}` or `${{file:PATH}}`, found `${{{}}}`; \
         write `$${{` for a plain `${{`",
        reference.escape_debug()
    )
}

fn variable(name: &str, environment: &dyn Environment) -> Result<String, String> {
    let shown = name.escape_debug();
    // The operating system knows no such names, and `std::env::var` is free to panic on them.
    if name.contains(['=', '\0']) {
        return Err(format!("`${{env:{shown}}}` is no name of an environment variable"));
    }
    environment.variable(name).map_err(|error| match error {
        VarError::NotPresent => {
            format!("the environment variable `{shown}` is not set; set it before the host starts")
        }
        VarError::NotUnicode(_) => {
            format!("the environment variable `{shown}` is not UTF-8; set it to text")
        }
    })
}

fn file(path: &str, directory: &Path, environment: &dyn Environment) -> Result<String, String> {
    let text = environment.file(&directory.join(path)).map_err(|error| {
        let absent = error.kind() == io::ErrorKind::NotFound;
        let why =
            if absent { "there is no such file".to_owned() } else { error.kind().to_string() };
        format!("the file of `${{file:{}}}` cannot be read: {why}", path.escape_debug())
    })?;
    let text =
        text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn variable(&self, name: &str) -> Result<String, VarError> {
            match name {
                "USER" => Ok("ann".into()),
                "NESTED" => Ok("${env:USER}".into()),
                _ => Err(VarError::NotPresent),
            }
        }

        fn file(&self, path: &Path) -> io::Result<String> {
            if path == Path::new("/etc/app/token") {
                Ok("s3cret\r\n".into())
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }

    fn read(typed: &str) -> Result<String, Vec<String>> {
        interpolate(typed, Path::new("/etc/app"), &Fixed)
    }

    #[test]
    fn variables_and_files_are_put_in_wherever_they_stand() {
        assert_eq!(read("plain $ text").unwrap(), "plain $ text");
        assert_eq!(read("<${env:USER}>${env:USER}").unwrap(), "<ann>ann");
        assert_eq!(read("${file:token}").unwrap(), "s3cret");
        assert_eq!(read("${file:/etc/app/token}!").unwrap(), "s3cret!");
    }

    #[test]
    fn a_doubled_dollar_is_a_plain_one_and_nothing_is_read_twice() {
        assert_eq!(read("$${env:USER}").unwrap(), "${env:USER}");
        assert_eq!(read("pa$$word").unwrap(), "pa$$word");
        assert_eq!(read("${env:NESTED}").unwrap(), "${env:USER}");
    }

    #[test]
    fn every_reference_that_cannot_be_followed_is_named() {
        let problems = read("${env:NONE} ${vault:x} ${env:} ${file:none} ${env:USER").unwrap_err();
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(problems[0].contains("`NONE` is not set"));
        assert!(problems[1].contains("found `${vault:x}`"));
        assert!(problems[2].contains("found `${env:}`"));
        assert!(problems[3].contains("`${file:none}` cannot be read: there is no such file"));
        assert!(problems[4].contains("has no `}`"));
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_its_end() {
        let error = ProcessEnvironment.file(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
