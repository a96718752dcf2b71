"""Who asks and what they may see: authentication, authorization, sessions and the audit log."""
