//! Mails over real sockets and into real folders.
