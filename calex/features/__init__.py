"""The feature store: what the frozen backbone computed, once, in the order layout → chunks → writer → store → loader."""
