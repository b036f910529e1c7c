//! Rows and columns.

use serde::{Deserialize, Serialize};

/// Which sliver of a pair: a row or a column of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// A row: `k2` symbols.
    Primary,
    /// A column: `k1` symbols.
    Secondary,
}
