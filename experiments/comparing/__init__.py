"""From runs to statistics, figures and claims."""
