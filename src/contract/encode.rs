//! Writing answers and problems.
