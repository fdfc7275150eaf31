"""Where runs are delivered to. ``base`` holds the contract; each other module is one tracker."""
