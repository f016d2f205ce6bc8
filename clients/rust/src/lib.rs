//! What an application links to send events to `dbufd`.
