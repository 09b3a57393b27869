//! One page that replays how a text was denoised, step by step; no script from anywhere else.

use crate::shown::markup;

/// The page for samples given as canvases `[sample][step]`.
pub fn page(name: &str, samples: &[Vec<String>]) -> String {
    // Of a text the line ends are part.
    let lines = |s: &str| s.split('\n').map(markup).collect::<Vec<_>>().join("\n");
    let mut body = String::new();
    for (i, steps) in samples.iter().enumerate() {
        body.push_str(&format!("<h2>sample {i}</h2>\n<ol start=\"0\">\n"));
        for canvas in steps {
            let shown = lines(canvas).replace('·', "<i>·</i>");
            body.push_str(&format!("<li><pre>{shown}</pre></li>\n"));
        }
        body.push_str("</ol>\n");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}: denoising</title>\n<style>\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}}\
         pre{{margin:0;white-space:pre-wrap}}i{{opacity:.35;font-style:normal}}</style>\n<h1>{0}</h1>\n{body}</html>\n",
        markup(name)
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_page_holds_every_canvas_and_escapes_markup() {
        let page = super::page("m", &[vec!["· <b>".into(), "a & b".into()]]);
        assert!(page.contains("<i>·</i> &lt;b&gt;") && page.contains("a &amp; b"));
        let page = super::page("a\u{1b}\nb", &[vec!["two\nlines\u{9b}2J\u{202e}".into()]]);
        assert!(page.contains("<pre>two\nlines\\u{9b}2J\\u{202e}</pre>") && page.contains("<h1>a\\u{1b}\\nb</h1>"));
    }
}
