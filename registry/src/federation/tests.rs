//! Two regions and more over real sockets, each with one node and no Raft.
