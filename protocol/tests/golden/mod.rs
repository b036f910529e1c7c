//! Golden vectors: readable files that fix every layout that is hashed, signed or sent.
//!
//! A difference means that this build does not understand the others. Only where that is intended,
//! write the files anew with `FLOE_WRITE_VECTORS=1` and look at every line that changed.

/// Compares `text` with the golden file that holds `golden`, or writes the file if asked to.
#[expect(clippy::disallowed_methods, reason = "writes the vectors, only when asked to")]
pub(crate) fn check(file: &str, golden: &str, text: &str) {
    if std::env::var_os("FLOE_WRITE_VECTORS").is_some() {
        let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, text).unwrap();
        return;
    }
    let (mut was, mut is) = (golden.lines(), text.lines());
    let mut number = 0;
    loop {
        number += 1;
        let (was, is) = (was.next(), is.next());
        assert_eq!(was, is, "tests/vectors/{file}, line {number}");
        if was.is_none() {
            break;
        }
    }
    assert!(golden == text, "tests/vectors/{file}: line ends differ");
}

/// Lower case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
