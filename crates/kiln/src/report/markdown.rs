//! The comparison as Markdown, with its images in a folder beside it.

use std::path::{Path, PathBuf};

use kiln_core::{Error, Result, output};

use super::{Cell, Content, Matrix, Report, Row};

/// Writes `path`, and its pictures into a folder of its name beside it.
///
/// # Errors
/// If something cannot be written.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    let mut files = Files::of(path)?;
    let mut out = format!("# {}\n\n", escape(&report.title));
    out.extend(report.about.iter().map(|a| format!("- {}\n", escape(a))));
    for section in &report.sections {
        out += &format!("\n## {}\n\n", escape(&section.title));
        if !section.note.is_empty() {
            out += &format!("{}\n\n", escape(&section.note));
        }
        for content in &section.content {
            out += &match content {
                Content::Table(rows) => table(report, rows),
                Content::Figures(figures) => {
                    let mut all = String::new();
                    for figure in figures {
                        let text = format!("{} {}", report.runs[figure.run].name, figure.caption);
                        let link = files.add(&figure.picture.encode_png(&[])?, "png", &text)?;
                        all += &format!("{}\n\n{link}\n\n", escape(&text));
                    }
                    all
                }
                Content::Confusions(matrices) => matrices.iter().map(|m| matrix(report, m)).collect(),
                Content::Plots(plots) => {
                    let mut all = String::new();
                    for plot in plots {
                        let text = format!("{} against {}", plot.title, plot.along);
                        all += &(files.add(plot.svg()?.as_bytes(), "svg", &text)? + "\n\n");
                    }
                    all
                }
                Content::Commands(lines) => lines.iter().map(|l| format!("    {l}\n")).collect(),
            };
        }
    }
    output::write(path, out.as_bytes())
}

/// The pictures beside a page, numbered.
struct Files {
    folder: PathBuf,
    name: String,
    count: usize,
}

impl Files {
    fn of(page: &Path) -> Result<Self> {
        let stem =
            page.file_stem().ok_or_else(|| Error::usage(format!("{}: not the name of a file", page.display())))?;
        let name = format!("{}_files", stem.display());
        Ok(Self { folder: page.with_file_name(&name), name, count: 0 })
    }

    /// Writes one and links to it.
    fn add(&mut self, bytes: &[u8], ending: &str, text: &str) -> Result<String> {
        output::folder(&self.folder)?;
        self.count += 1;
        let file = format!("{:02}.{ending}", self.count);
        output::write(&self.folder.join(&file), bytes)?;
        let folder: String =
            self.name.chars().flat_map(|c| "\\<>".contains(c).then_some('\\').into_iter().chain([c])).collect();
        Ok(format!("![{}](<{folder}/{file}>)", escape(text)))
    }
}

fn table(report: &Report, rows: &[Row]) -> String {
    let heads = report.runs.iter().map(|r| format!("{} ({})", escape(&r.name), escape(&r.about)));
    let mut out = line(["".into()].into_iter().chain(heads));
    out += &line(["---".into()].into_iter().chain(report.runs.iter().map(|_| "---:".into())));
    for row in rows {
        let label = if row.note.is_empty() { row.label.clone() } else { format!("{} ({})", row.label, row.note) };
        out += &line([escape(&label)].into_iter().chain(row.cells.iter().map(cell)));
    }
    out + "\n"
}

fn matrix(report: &Report, matrix: &Matrix) -> String {
    let heads = ["".into()].into_iter().chain(matrix.classes.iter().map(|c| escape(c)));
    let mut out = format!("{}: {}\n\n", escape(&report.runs[matrix.run].name), escape(&matrix.caption));
    out += &line(heads);
    out += &line(["---".into()].into_iter().chain(matrix.classes.iter().map(|_| "---:".into())));
    for (truth, class) in matrix.classes.iter().enumerate() {
        let counts = (0..matrix.classes.len()).map(|p| matrix.confusion.count(truth, p).to_string());
        out += &line([escape(class)].into_iter().chain(counts));
    }
    out + "\n"
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

fn cell(cell: &Cell) -> String {
    let text = if cell.value.is_empty() { "–".into() } else { format!("{} {}", cell.value, cell.spread) };
    escape(text.trim())
}

/// Text that no Markdown reader takes for markup, on one line.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("a_b|<i>&\n[x]"), "a\\_b\\|&lt;i&gt;&amp; \\[x\\]");
    }
}
