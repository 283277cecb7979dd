"""Where a study meets Ray: a session, and an executor that runs in it. Nothing else imports ray."""
