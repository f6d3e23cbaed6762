//! What is wrong with a manifest, all of it, in the form in which people see it.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The dotted path of the key, such as `handler.resize.memory`; empty where the
    /// text is not TOML.
    pub path: String,
    /// What was expected, what was found, and what to do.
    pub message: String,
}

/// Every problem of one manifest, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    path: PathBuf,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(path: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort();
        Self { path: path.to_owned(), problems }
    }

    /// The manifest's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its problems; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(f, "{}: {count} {noun}", self.path.display())?;
        let places: Vec<String> =
            self.problems.iter().map(|at| format!("{}:{}", at.line, at.column)).collect();
        let width = places.iter().map(String::len).max().unwrap_or(0);
        for (place, problem) in places.iter().zip(&self.problems) {
            write!(f, "\n  {place:width$}  ")?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

/// Where the lines of a text begin, to turn an offset into a line and a column.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// The line and the column of the byte at `offset`, both from 1.
    pub(super) fn locate(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        (line, self.text[start..offset].chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, column: usize, path: &str, message: &str) -> Problem {
        Problem { line, column, path: path.into(), message: message.into() }
    }

    #[test]
    fn a_report_lists_its_problems_in_the_order_of_the_file() {
        let report = Report::new(
            Path::new("tidegate.toml"),
            vec![
                problem(9, 1, "handler.thumbs.steram", "unknown key; did you mean `stream`?"),
                problem(
                    5,
                    10,
                    "handler.resize.memory",
                    "expected a size such as \"64MiB\", found \"64\"",
                ),
            ],
        );
        assert_eq!(
            report.to_string(),
            "tidegate.toml: 2 problems\n  \
             5:10  handler.resize.memory: expected a size such as \"64MiB\", found \"64\"\n  \
             9:1   handler.thumbs.steram: unknown key; did you mean `stream`?"
        );
    }

    #[test]
    fn one_problem_is_not_called_problems() {
        let report = Report::new(Path::new("a.toml"), vec![problem(1, 1, "", "not TOML")]);
        assert_eq!(report.to_string(), "a.toml: 1 problem\n  1:1  not TOML");
    }

    #[test]
    fn columns_count_characters_and_any_offset_has_a_place() {
        let lines = Lines::of("é = 1\nb = 2\n");
        assert_eq!(lines.locate(0), (1, 1));
        assert_eq!(lines.locate(1), (1, 1), "inside the é");
        assert_eq!(lines.locate(3), (1, 3));
        assert_eq!(lines.locate(7), (2, 1));
        assert_eq!(lines.locate(99), (3, 1));
        assert_eq!(Lines::of("").locate(0), (1, 1));
    }
}
